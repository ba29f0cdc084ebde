"""`bridge sanitize`: every kernel of a library under compute-sanitizer."""

import argparse
from pathlib import Path

from bridge.base import log
from bridge.cli import library_options
from bridge.cli.command import UsageError

_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
DESCRIPTION = (
    "Runs the samples of each op in every dtype, layout and tactic, with inputs aligned and not, under each tool of\n"
    "compute-sanitizer. Needs a GPU, and no TensorRT. Exit code 1: a tool found something.\n\n"
    "Example: bridge sanitize --library acme --tools memcheck,racecheck corr"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: every op of the library")
    library_options.add_library(parser)
    library_options.add_samples(parser)
    parser.add_argument(
        "--tools", type=_tools, default=_TOOLS, metavar="TOOL,TOOL", help=f"default: {','.join(_TOOLS)}"
    )
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="processes of a tool at a time")
    parser.add_argument(
        "--part", type=_part, default=(0, 1), metavar="I/N", help="every N-th call alone, from the I-th: 1/3 is a third"
    )
    parser.add_argument(
        "--each-kernel", action="store_true", help="of these only so few as launch every kernel, aligned and not"
    )
    parser.add_argument(
        "--logs", type=Path, default=Path("build/sanitize"), metavar="FOLDER", help="default: build/sanitize"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the tools, and returns 1 where one found something."""
    import torch

    from bridge.testing import samples_of, sanitize
    from bridge.testing.sanitizer_calls import Job

    library = library_options.library_of(options)
    job = Job(library.namespace, options.ops, options.samples)
    try:
        for op in job.chosen():
            samples_of(op, job.samples)
        sanitize.sanitizer()
        if not torch.cuda.is_available():
            raise RuntimeError("bridge sanitize runs kernels on a CUDA GPU, and there is none")
    except ValueError as error:
        raise UsageError(str(error)) from error
    except (RuntimeError, FileNotFoundError) as error:
        log.say(f"bridge: {error}")
        return 7
    runner = sanitize.Runner(job, options.logs, options.jobs, options.part)
    if options.each_kernel:
        try:
            runner = runner.choose()
        except RuntimeError as error:
            log.say(f"bridge: {error}")
            return 1
    clean = [runner.check(tool) for tool in options.tools]
    return 0 if all(clean) else 1


def _tools(text: str) -> tuple[str, ...]:
    names = text.split(",")
    unknown = [name for name in names if name not in _TOOLS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no tool is called {', '.join(unknown)}; there are {', '.join(_TOOLS)}")
    return tuple(names)


def _part(text: str) -> tuple[int, int]:
    from bridge.testing.sanitizer_calls import share

    return share(text)


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"jobs are 1 or more, not {text!r}")
    return int(text)
