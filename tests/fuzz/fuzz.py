"""Long runs of the fuzzers that the tests run for seconds: python tests/fuzz/fuzz.py plugins --count 480000 --seed 1

tests/support and tests/ops must be in PYTHONPATH, and OMP_NUM_THREADS must be 1, as in `make fuzz`: cases run in forked
processes, which would wait for OpenMP threads that a fork does not copy.
A finding is printed with its seed and number, and the exit code is 1.
"""

import argparse
import sys
import time

import fuzz_children


def files(arguments: argparse.Namespace) -> int:
    """Changed engine files, of which only documented errors come; see fuzz_files.py."""
    from fuzz_files import run

    started = time.monotonic()
    findings: list[str] = []
    outcomes = run(arguments.count or 40_000, arguments.seed, arguments.command_line, findings)
    print("".join(f"{finding}\n" for finding in findings[:20]), end="")
    for outcome, count in outcomes.most_common():
        print(f"{count:10,} {outcome}")
    seconds = time.monotonic() - started
    print(f"{sum(outcomes.values()):,} files from seed {arguments.seed}: {len(findings)} findings, {seconds:.0f} s")
    return 1 if findings else 0


def plugins(arguments: argparse.Namespace) -> int:
    """The plugin library's C++ interface, one collection of fields a case; see fuzz_plugins.py."""
    import fuzz_plugins

    return _run(fuzz_plugins.run_case, arguments.count or 480_000, arguments.seed)


def _run(case: fuzz_children.Case, count: int, seed: int) -> int:
    result = fuzz_children.run(case, seed, count, chunk=5000)
    for finding in result.findings:
        print(finding)
    for what, times in sorted(result.outcomes.items()):
        print(f"{times:10,} {what}")
    print(f"{count:,} cases from seed {seed}: {len(result.findings)} findings")
    return 1 if result.findings else 0


def ops(arguments: argparse.Namespace) -> int:
    """The ops through torch, one call a case; see fuzz_ops.py."""
    import fuzz_ops

    return _run(fuzz_ops.run_case, arguments.count or 40_000, arguments.seed)


def main() -> int:
    """Parses the command line, and runs what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run in (files, plugins, ops):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.add_argument("--count", type=int)
        command.add_argument("--seed", type=int, default=1)
        command.set_defaults(run=run)
        if run is files:
            command.add_argument(
                "--command-line", type=int, default=10, help="every which file goes through bridge, too"
            )
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
