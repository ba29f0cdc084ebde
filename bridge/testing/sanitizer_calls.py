"""The calls of a library's kernels that a tool watches: the samples of the ops, each in every dtype, by every tactic.

Inputs are aligned and not. They are made on the CPU and copied, and every tensor has memory of its own: so a tool sees
who wrote what, and no kernel but the library's runs. Outputs are copied back, which initcheck takes for a read.

``python -m bridge.testing.sanitizer_calls acme`` makes the calls, on a GPU; ``bridge sanitize`` does so under a tool.
"""

import argparse
import functools
import importlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bridge.core import libraries
from bridge.core.op import Op
from bridge.tensorrt.plugins.fields import make_fields
from bridge.tensorrt.plugins.plugin_object import PluginObject, create
from bridge.testing import kernel_calls
from bridge.testing.arguments import cast, misaligned, outputs_of
from bridge.testing.library import op_names
from bridge.testing.reference import dtype_variants
from bridge.testing.samples import Sample, sample_module, samples_of, switched


@dataclass(frozen=True)
class Job:
    """What is called: the ops of a library (none: all), on samples that are beside the ops or at `samples`."""

    namespace: str
    ops: Sequence[str] = ()
    samples: str | None = None

    def command(self) -> list[str]:
        """The command that makes the calls in another process."""
        module = libraries.library(self.namespace).module
        options = {"--import": module if module != "__main__" else None, "--samples": self.samples}
        given = [word for name, value in options.items() if value for word in (name, value)]
        return [sys.executable, "-m", "bridge.testing.sanitizer_calls", self.namespace, *self.ops, *given]

    def environment(self) -> dict[str, str]:
        """What that process needs in its environment: where the library's kernels are, which may be built in place."""
        library = libraries.library(self.namespace)
        path = library.find("torch")
        return {library.variable: str(path.parent)} if path else {}

    def chosen(self) -> list[Op]:
        """The ops. LibraryError, UnknownNameError: there is no such library, or op."""
        library = libraries.library(self.namespace)
        return [library.ops[name] for name in op_names(library, self.ops)]


Call = tuple[str, Op, Sequence[Any], dict[str, Any], int, bool]  # what to say of it, and what `call` takes


def run(job: Job, share: int = 0, shares: int = 1, only: Collection[int] | None = None) -> int:
    """Runs one of equal shares of the calls, and says each before it runs; returns how many there were.

    only: the numbers of the calls that there are to be; default: all.
    """
    count = 0
    how: Any
    for _, (what, *how) in _numbered(job, share, shares, only):
        print(what, flush=True)
        call(*how)
        count += 1
    return count


def kernels(job: Job, share: int = 0, shares: int = 1) -> dict[int, list[str]]:
    """Runs such a share, and returns what kernels each call launches; those of aligned inputs count for themselves."""
    aligned: dict[int, bool] = {}

    def each() -> Iterator[tuple[int, Callable[[], None]]]:
        how: Any
        for number, (_, *how) in _numbered(job, share, shares):
            aligned[number] = how[-1]
            yield number, functools.partial(call, *how)

    found = kernel_calls.launched(each())
    return {number: [f"{name}, {aligned[number]}" for name in names] for number, names in found.items()}


def _numbered(job: Job, share: int, shares: int, only: Collection[int] | None = None) -> Iterator[tuple[int, Call]]:
    chosen = (each for each in enumerate(calls(job)) if only is None or each[0] in only)
    return itertools.islice(chosen, share, None, shares)


def calls(job: Job) -> Iterator[Call]:
    """Every call of a job."""
    for op in job.chosen():
        for label, args, kwargs in every_sample(op, job.samples):
            _, attributes = op.bind(args, kwargs)
            for given in dtype_variants(op, args, kwargs):
                dtype = given[0].dtype
                for tactic, aligned in itertools.product(tactics(op, given, attributes), (True, False)):
                    what = f"{op.name}, {dtype}, tactic {tactic}, {'aligned' if aligned else 'not aligned'}: {label}"
                    yield what, op, given, attributes, tactic, aligned


def every_sample(op: Op, source: str | None = None) -> list[Sample]:
    """The samples of an op, and the further ones that its module has for kernels that do not take those."""
    module = sample_module(op, source)
    further: list[Sample] = getattr(module, "further", list)()
    return [*samples_of(op, source), *further, *switched(module, further)]


def tactics(op: Op, tensors: Sequence[Any], attributes: dict[str, Any]) -> list[int]:
    """The numbers of an op's kernels that compute a call on this GPU, and -1, with which the op chooses."""
    if op.counted:
        return [-1]  # shapes of results, by which a plugin is asked, depend on values
    fields = make_fields(op, [tensor is not None for tensor in tensors], attributes)
    values = {field.name: field.value for field in fields}
    plugin = PluginObject(create(op.library.plugin_library(), op.local_name, values))
    meta = op.overload(*cast(tensors, device="meta"), **attributes)
    if plugin.configure([tensor for tensor in tensors if tensor is not None], outputs_of(meta)):
        raise RuntimeError(f"the plugin {op.name} refuses {attributes}")
    return [number - 2 for number in plugin.tactics()] or [-1]  # TensorRT's first leaves the choice to the op


def call(op: Op, args: Sequence[Any], kwargs: dict[str, Any], tactic: int, aligned: bool) -> None:
    """Makes one call on the GPU, and waits for its results."""
    given = [on_gpu(value, aligned) if isinstance(value, torch.Tensor) else value for value in args]
    with libraries.tactic(op.name, tactic):
        outputs = outputs_of(op.overload(*given, **kwargs))
    for output in outputs:
        output.cpu()


def on_gpu(tensor: torch.Tensor, aligned: bool) -> torch.Tensor:
    """A copy there; one that is not aligned begins an element after the start of its memory."""
    if aligned:
        return tensor.contiguous().cuda()
    moved = misaligned(tensor)
    return moved._base.cuda()[1:].view(tensor.shape) if moved._base is not None else moved.cuda()


def share(text: str) -> tuple[int, int]:
    """A share of the command line, counted from 0."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"a share is as 2/8, the second of eight, not {text!r}")
    return int(match[1]) - 1, int(match[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the calls that the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", metavar="NAMESPACE")
    parser.add_argument("ops", nargs="*", metavar="OP", help="default: all")
    parser.add_argument("--import", dest="module", metavar="MODULE", help="which defines the ops")
    parser.add_argument("--samples", metavar="FOLDER", help="or package; default: beside the ops")
    parser.add_argument("--share", type=share, default=(0, 1), metavar="I/N", help="every N-th call, from the I-th")
    parser.add_argument("--only", type=Path, metavar="FILE", help="the calls whose numbers are in this JSON file")
    parser.add_argument(
        "--kernels", type=Path, metavar="FILE", help="write here as JSON what kernels each call launches"
    )
    options = parser.parse_args(argv)
    if options.module:
        importlib.import_module(options.module)
    job = Job(options.library, options.ops, options.samples)
    first, step = options.share
    if options.kernels:
        found = kernels(job, first, step)
        options.kernels.write_text(json.dumps(found))
        print(f"{len(found)} calls")
    else:
        only = set(json.loads(options.only.read_text())) if options.only else None
        print(f"{run(job, first, step, only)} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
