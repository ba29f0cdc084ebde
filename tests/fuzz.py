"""Long runs of the fuzzers that the tests run for seconds: python tests/fuzz.py plugins --count 480000 --seed 1

A finding is printed with its seed and number, and the exit code is 1.
"""

import argparse
import sys

import fuzz_children


def plugins(arguments: argparse.Namespace) -> int:
    """The plugin library's C++ interface, one collection of fields a case; see fuzz_plugins.py."""
    import fuzz_plugins

    return _run(fuzz_plugins.run_case, arguments)


def _run(case: fuzz_children.Case, arguments: argparse.Namespace) -> int:
    result = fuzz_children.run(case, arguments.seed, arguments.count, chunk=5000)
    for finding in result.findings:
        print(finding)
    for what, count in sorted(result.outcomes.items()):
        print(f"{count:10,} {what}")
    print(f"{arguments.count:,} cases from seed {arguments.seed}: {len(result.findings)} findings")
    return 1 if result.findings else 0


def ops(arguments: argparse.Namespace) -> int:
    """The ops through torch, one call a case; see fuzz_ops.py."""
    import fuzz_ops

    return _run(fuzz_ops.run_case, arguments)


def main() -> int:
    """Parses the command line, and runs what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run in (plugins, ops):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.add_argument("--count", type=int, default=480_000)
        command.add_argument("--seed", type=int, default=0)
        command.set_defaults(run=run)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
