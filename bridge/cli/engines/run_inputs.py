"""The inputs of `bridge run`: from files, or random with shapes from the command line or the engine's profile."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from bridge.base.text import listing
from bridge.cli.engines.shape_options import Shape, Shapes, text_of
from bridge.engine_file import dtypes
from bridge.engine_file.contents import TensorSpec
from bridge.errors import EngineInputError, UnknownNameError
from bridge.tensorrt.run.input_check import check_shape

_INTEGERS = 2  # random integers are below that, so that they index whatever they are meant to index


@dataclass(frozen=True)
class RunInput:
    """An input that is known to fit its engine. path, values: of the file that it is loaded from; else it is random."""

    spec: TensorSpec
    shape: Shape
    path: Path | None = None
    values: Tensor | None = None

    def tensor(self, seed: int) -> Tensor:
        """The values on the CPU. Random ones depend on the seed and the input's name alone."""
        if self.values is not None:
            return self.values
        dtype = dtypes.named(self.spec.dtype).torch
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(self.spec.name.encode()))
        if dtype.is_floating_point:
            return torch.randn(self.shape, generator=generator).to(dtype)
        return torch.randint(_INTEGERS, self.shape, generator=generator).to(dtype)

    def source(self, seed: int) -> str:
        """Where the values come from, for reading."""
        return str(self.path) if self.path else f"random, seed {seed}"


def inputs_of(specs: Sequence[TensorSpec], shapes: Shapes, files: Sequence[str]) -> list[RunInput]:
    """The inputs of an engine, in order. An input that neither names has the shape that the engine is tuned for.

    files: "NAME:FILE.npy" each.

    Raises:
        UnknownNameError: the engine has no such input, or there is no such file.
        EngineInputError: the engine does not take that shape, or what is in that file.
    """
    names = [spec.name for spec in specs]
    for name in shapes:
        _check_name(name, names)
    paths = _paths(files, names)
    return [_input(spec, shapes, paths) for spec in specs]


def _input(spec: TensorSpec, shapes: Shapes, paths: Mapping[str, Path]) -> RunInput:
    asked = shapes[spec.name][0] if spec.name in shapes else None
    if spec.name not in paths:
        shape = spec.opt if asked is None else asked
        check_shape(spec, shape)
        return RunInput(spec, shape)
    path = paths[spec.name]
    values = _load(path, spec)
    shape = tuple(values.shape)
    if asked not in (None, shape):
        raise EngineInputError(f"{path} has the shape {text_of(shape)}, and --shapes says {text_of(asked or ())}")
    check_shape(spec, shape)
    return RunInput(spec, shape, path, values)


def _paths(files: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for text in files:
        # Names may hold colons themselves.
        name = next((name for name in names if text.startswith(f"{name}:")), text.partition(":")[0])
        _check_name(name, names)
        if name in paths:
            raise EngineInputError(f"input {name} is loaded twice, from {paths[name]} and {text[len(name) + 1 :]}")
        paths[name] = Path(text[len(name) + 1 :])
    return paths


def _check_name(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UnknownNameError(f"the engine has no input {name!r}; it has {listing(names, name)}")


def _load(path: Path, spec: TensorSpec) -> Tensor:
    """The array of a .npy file, in the dtype of the engine. numpy has no bfloat16: its files are of float32."""
    if not path.is_file():
        raise UnknownNameError(f"there is no file {path} to load input {spec.name} from")
    try:
        array = numpy.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EngineInputError(f"{path} is no .npy file, which input {spec.name} is loaded from: {error}") from None
    if not isinstance(array, numpy.ndarray):
        raise EngineInputError(f"{path} is an archive of arrays; input {spec.name} is loaded from a .npy file with one")
    expected = "float32" if spec.dtype == "bfloat16" else spec.dtype
    if array.dtype.newbyteorder("=") != numpy.dtype(expected):
        note = ", which is rounded to the engine's bfloat16" if expected != spec.dtype else ""
        raise EngineInputError(
            f"{path} has dtype {array.dtype}; input {spec.name} takes {expected}{note}: "
            f"save it as array.astype({expected!r})"
        )
    array = numpy.ascontiguousarray(array, numpy.dtype(expected)).reshape(array.shape)
    return torch.from_numpy(array).to(dtypes.named(spec.dtype).torch)
