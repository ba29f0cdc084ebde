"""The calls of a library's kernels that a tool watches: the samples of the ops, each in every dtype, by every tactic.

Inputs are aligned and not, and with their channels last, where kernels take them so; an op whose kernels an engine
calls otherwise is called by its plugin, too. They are made on the CPU and copied, and every tensor has memory of its
own: so a tool sees who wrote what, and no kernel but the library's runs. Outputs are copied back, which initcheck takes
for a read.

``python -m bridge.testing.sanitizer_calls acme`` makes the calls, on a GPU; ``bridge sanitize`` does so under a tool.
"""

import argparse
import functools
import importlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from bridge.core import libraries
from bridge.core.library import Library
from bridge.core.op import Op
from bridge.tensorrt.plugins.plugin_object import HWC8, LINEAR, PluginObject
from bridge.testing import kernel_calls
from bridge.testing.arguments import DTYPES, cast, misaligned, outputs_of, with_dtype
from bridge.testing.library import op_names
from bridge.testing.plugin_call import FROM_OP, OWN, plugin_call, plugin_of, results_of, tensors_of
from bridge.testing.reference import dtype_variants
from bridge.testing.samples import Sample, sample_module, samples_of, switched


@dataclass(frozen=True)
class Job:
    """What is called: the ops of a library (none: all), on samples that are beside the ops or at `samples`."""

    namespace: str
    ops: Sequence[str] = ()
    samples: str | None = None

    def library(self) -> Library:
        """The library. LibraryError: there is none."""
        return libraries.library(self.namespace)

    def command(self) -> list[str]:
        """The command that makes the calls in another process."""
        module = self.library().module
        options = {"--import": module if module != "__main__" else None, "--samples": self.samples}
        given = [word for name, value in options.items() if value for word in (name, value)]
        return [sys.executable, "-m", "bridge.testing.sanitizer_calls", self.namespace, *self.ops, *given]

    def environment(self) -> dict[str, str]:
        """What that process needs in its environment: where the library's kernels are, which may be built in place."""
        library = self.library()
        path = library.find("torch")
        return {library.variable: str(path.parent)} if path else {}

    def chosen(self) -> list[Op]:
        """The ops. LibraryError, UnknownNameError: there is no such library, or op."""
        library = self.library()
        return [library.ops[name] for name in op_names(library, self.ops)]


class Way(NamedTuple):
    """How a call is made: by which of the op's kernels, on what inputs, and by whom.

    aligned: inputs begin where their memory does. last: the first one has its channels last. plugin: as an engine
    makes it, whose results have the layout of the first input.
    """

    tactic: int = OWN
    aligned: bool = True
    last: bool = False
    plugin: bool = False

    def __str__(self) -> str:
        marks = ["aligned" if self.aligned else "not aligned"]
        marks += ["channels last"] * self.last + ["by the plugin"] * self.plugin
        return f"tactic {self.tactic}, {', '.join(marks)}"


class Call(NamedTuple):
    """A call that is to be made. constants: tensors that never change, where a plugin makes it."""

    what: str
    op: Op
    args: Sequence[Any]
    kwargs: dict[str, Any]
    way: Way
    constants: Sequence[str] = ()


def run(job: Job, share: int = 0, shares: int = 1, only: Mapping[int, str] | None = None) -> int:
    """Runs one of equal shares of the calls, and says each before it runs; returns how many there were.

    only: the numbers of the calls that there are to be, and what is said of each; default: all.
    RuntimeError: a call fails, or those are not calls of the job.
    """
    count = 0
    for _, each in _numbered(job, share, shares, only):
        print(each.what, flush=True)
        make(each)
        count += 1
    return count


def kernels(job: Job, share: int = 0, shares: int = 1) -> dict[int, tuple[str, list[str]]]:
    """Runs such a share, and returns by the number of each call what is said of it, and what kernels it launches.

    Those of aligned inputs count for themselves.
    """
    made: dict[int, Call] = {}

    def each() -> Iterator[tuple[int, Callable[[], None]]]:
        for number, one in _numbered(job, share, shares):
            made[number] = one._replace(args=())  # which would keep the memory of all
            yield number, functools.partial(make, one)

    found = kernel_calls.launched(each())
    return {
        number: (made[number].what, [f"{name}, {made[number].way.aligned}" for name in names])
        for number, names in found.items()
    }


def _numbered(job: Job, share: int, shares: int, only: Mapping[int, str] | None = None) -> Iterator[tuple[int, Call]]:
    chosen = enumerate(calls(job)) if only is None else _chosen(job, only)
    return itertools.islice(chosen, share, None, shares)


def _chosen(job: Job, only: Mapping[int, str]) -> Iterator[tuple[int, Call]]:
    """Those calls. RuntimeError: they are others now, for another version of the code or of the library makes them."""
    rest = dict(only)
    for number, each in enumerate(calls(job)):
        if number in rest:
            if each.what != rest.pop(number):
                raise RuntimeError(f"call {number} was chosen as {only[number]!r}, and is {each.what!r}: choose anew")
            yield number, each
    if rest:
        raise RuntimeError(f"there are no calls {', '.join(map(str, rest))}, which were chosen: choose anew")


def calls(job: Job) -> Iterator[Call]:
    """Every call of a job."""
    for op in job.chosen():
        module = sample_module(op, job.samples)
        constants = getattr(module, "CONSTANTS", ())
        for label, args, kwargs in every_sample(op, job.samples):
            _, bound = op.bind(args, kwargs)
            for given, attributes in itertools.product(dtype_variants(op, args, kwargs), _results(op, bound)):
                dtype = attributes.get("dtype", given[0].dtype)
                for way in ways(op, given, attributes, module):
                    yield Call(f"{op.name}, {dtype}, {way}: {label}", op, given, attributes, way, constants)


def every_sample(op: Op, source: str | None = None) -> list[Sample]:
    """The samples of an op, and the further ones that its module has for kernels that do not take those."""
    module = sample_module(op, source)
    further: list[Sample] = getattr(module, "further", list)()
    return [*samples_of(op, source), *further, *switched(module, further)]


def _results(op: Op, attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """The attributes of a call for every dtype of its results, where an attribute says that."""
    wanted = [with_dtype(op, attributes, dtype) for dtype in DTYPES]
    return wanted if wanted[0] != wanted[1] else [attributes]


def ways(op: Op, tensors: Sequence[Any], attributes: dict[str, Any], module: ModuleType | None = None) -> list[Way]:
    """How a call is made on this GPU. module: of the op's samples, with what only that knows."""
    if op.counted:
        return [Way(), Way(aligned=False)]  # shapes of results, by which a plugin is asked, depend on values
    given, results = tensors_of(tensors), results_of(op, tensors, attributes)
    with plugin_of(op, tensors, attributes) as plugin:
        if plugin.configure(given, results):
            raise RuntimeError(f"the plugin {op.name} refuses {attributes}")
        numbers = [number - FROM_OP for number in plugin.tactics()] or [OWN]
        last, both = _takes_channels_last(plugin, given, len(results))
    numbers += [number for number in getattr(module, "TACTICS", ()) if number not in numbers]
    found = [Way(number, aligned) for number in numbers for aligned in (True, False)]
    found += [Way(number, last=True) for number in numbers if last]
    found += [Way(plugin=True)] if getattr(module, "CONSTANTS", ()) else []
    # A format of TensorRT's rounds numbers of channels of 16-bit types up to a multiple of 8, which no kernel takes.
    ragged = any(tensor.shape[1] % 8 for tensor in (given[0], *results) if tensor.dim() == 4)
    if both and (given[0].dtype == torch.float32 or not ragged):
        alignments = (True,) if last else (True, False)  # those that are not aligned come from PyTorch, where they can
        found += [Way(number, aligned, True, True) for number in numbers for aligned in alignments]
    return found


def _takes_channels_last(plugin: PluginObject, given: Sequence[torch.Tensor], results: int) -> tuple[bool, bool]:
    """Whether kernels take the first tensor with its channels last: with results in rows, and with such results."""
    if given[0].dim() != 4 or not given[0].is_floating_point():
        return False, False
    last, rows = (torch.empty(1, channels, 1, 1, dtype=torch.float16, device="meta") for channels in (8, 1))
    inputs = [last, *cast(given[1:], torch.float16, "meta")]
    formats = [HWC8, *[LINEAR] * (len(given) - 1)]
    return (
        plugin.takes(inputs, [rows] * results, formats + [LINEAR] * results),
        plugin.takes(inputs, [last] * results, formats + [HWC8] * results),
    )


def make(each: Call) -> None:
    """Makes one call on the GPU, and waits for its results. RuntimeError: it fails; the message says which it was."""
    try:
        _make(each, each.way)
    except Exception as error:
        raise RuntimeError(f"{each.what}: {type(error).__name__}: {error}") from error


def _make(each: Call, way: Way) -> None:
    given = [on_gpu(value, way.aligned, way.last and not index) for index, value in enumerate(each.args)]
    if way.plugin:
        with plugin_call(each.op, given, each.kwargs, each.constants, way.last) as plugin:
            plugin.use(way.tactic)
            outputs = plugin(given)
    else:
        with libraries.tactic(each.op.name, way.tactic):
            outputs = outputs_of(each.op.overload(*given, **each.kwargs))
    for output in outputs:
        output.cpu()


def on_gpu(value: Any, aligned: bool, last: bool = False) -> Any:
    """A copy of a tensor there; one that is not aligned begins an element after the start of its memory."""
    if not isinstance(value, torch.Tensor):
        return value
    if last:
        return on_gpu(value.permute(0, 2, 3, 1), aligned).permute(0, 3, 1, 2)
    if aligned:
        return value.contiguous().cuda()
    moved = misaligned(value)
    return moved._base.cuda()[1:].view(value.shape) if moved._base is not None else moved.cuda()


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
    parser.add_argument("--only", type=Path, metavar="FILE", help="the calls of this JSON file alone")
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
        chosen = json.loads(options.only.read_text()) if options.only else None
        only = None if chosen is None else {int(number): what for number, what in chosen.items()}
        print(f"{run(job, first, step, only)} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
