"""Longer fuzzing than the tests do: python tests/fuzz.py files --count 40000 --seed 1"""

import argparse
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    files = commands.add_parser("files", help="changed engine files: only documented errors come out of them")
    files.add_argument("--count", type=int, default=40_000)
    files.add_argument("--seed", type=int, default=1)
    files.add_argument("--command-line", type=int, default=10, help="every which file is also read by the command line")
    options = parser.parse_args()
    started = time.monotonic()
    from fuzz_files import run

    outcomes = run(options.count, options.seed, options.command_line)
    for outcome, count in outcomes.most_common():
        print(f"{count:>8}  {outcome}")
    print(f"{sum(outcomes.values()):>8}  in {time.monotonic() - started:.0f} s, nothing undocumented", file=sys.stderr)


if __name__ == "__main__":
    main()
