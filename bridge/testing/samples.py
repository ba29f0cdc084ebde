"""Samples: calls of an op that the checks run, found beside the op.

What is looked for, in this order:

1. in the folder or package that the caller names, the module ``<op>``; of a package also in its subpackages;
2. in the module that defines the op, a function ``<op>_samples``;
3. in each package around that module, from the inside out, the module ``samples.<op>``.

Such a module defines ``samples()``; ``<op>_samples`` is the same function. It returns or yields
``(label, args, kwargs)``, whose tensors are random and whose shapes are odd on purpose.

A module may define more:

    further()                       samples for kernels that do not take the others
    SWITCHES                        attributes with which still other kernels take those
    TACTICS                         numbers of kernels that only tests choose
    CONSTANTS                       tensors of which an engine keeps what it makes of them
    open_axes(tensors)              {index of a tensor: the axes that a model may leave open}; else all
    growing(size, seed)             (first tensor, [other arguments]) that grow with a size, attributes as in PAIR
    growing_shapes(batch, length)   the dynamic shapes {"x": ..., "rest": [...]} of these, for two Dims
    PAIR                            (args, args, kwargs): equal attributes, different shapes
    random_call(seed)               (args, kwargs) at random sizes
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from torch import Tensor

from bridge.base.modules import module_below, module_beside
from bridge.core.op import OPS, Op

Sample: TypeAlias = tuple[str, list[Any], dict[str, Any]]
"""A label, the positional arguments and the keyword arguments of one call."""


class SampleError(ValueError):
    """An op has no samples, or something that is none; the message says what is expected, and where."""


def samples_of(op: Op | str, source: str | Path | None = None) -> list[Sample]:
    """The samples of an op; the documentation of this module says where they are looked for.

    Args:
        op: or its key in bridge.OPS, such as "acme::corr".
        source: a folder, or the name of a package, with a module for each op; None: beside the op.
    Raises:
        SampleError: there are none, or one is no ``(label, args, kwargs)`` whose first argument is a tensor.
        Exception: whatever the function of the samples raises.
    """
    op = OPS[op] if isinstance(op, str) else op
    where, make = _source(op, source)
    samples = [_checked(sample, where, index) for index, sample in enumerate(make())]
    if not samples:
        raise SampleError(f"{op.name} has no samples: {where} gives none")
    return samples


def sample_module(op: Op, source: str | Path | None = None) -> ModuleType | None:
    """The module of an op's samples, which may define more than those; None where there is none.

    SampleError: `source` is neither a folder nor a package.
    """
    if source is None:
        return module_beside(module_of(op), f"samples.{op.local_name}")
    if Path(source).is_dir():
        return _in_folder(Path(source), op.local_name)
    try:
        importlib.import_module(str(source))
    except (ModuleNotFoundError, TypeError) as error:  # the latter of what begins with a dot
        raise SampleError(f"{source} is neither a folder nor a package of samples: {error}") from error
    return module_beside(str(source), op.local_name) or module_below(str(source), op.local_name)


def switched(module: ModuleType | None, further: Iterable[Sample]) -> list[Sample]:
    """Further samples with the attributes that have other kernels compute them."""
    switches = getattr(module, "SWITCHES", {})
    return [(f"{label}, {switches}", args, kwargs | switches) for label, args, kwargs in further if switches]


def module_of(op: Op) -> str:
    """The module that defines an op; of an operator that is bound, the one that binds it."""
    return op.reference.__module__ if inspect.isfunction(op.reference) else op.library.module


def _names_beside(op: Op) -> Mapping[str, Any]:
    """The global names of the module that defines an op."""
    if inspect.isfunction(op.reference):
        return op.reference.__globals__
    return vars(sys.modules.get(op.library.module, ModuleType("")))


def _source(op: Op, source: str | Path | None) -> tuple[str, Callable[[], Iterable[Any]]]:
    """Where the samples of an op are, for messages, and the function that makes them."""
    beside = f"{op.local_name}_samples"
    own = _names_beside(op).get(beside)
    if source is None and own is not None:
        return f"{module_of(op)}.{beside}", own
    module = sample_module(op, source)
    if module is not None and hasattr(module, "samples"):
        return f"{module.__name__}.samples", module.samples
    raise SampleError(
        f"{op.name} has no samples: define {beside}() in {module_of(op)}, or samples() in a module "
        f"{op.local_name} of {source or 'a package samples beside it'}; it yields (label, args, kwargs)"
    )


def _checked(sample: Any, where: str, index: int) -> Sample:
    """A sample whose parts are of the right kinds. SampleError: they are not."""
    parts = tuple(sample) if isinstance(sample, Sequence) and not isinstance(sample, str) else ()
    kinds = (str, Sequence, dict)
    if len(parts) != 3 or not all(isinstance(part, kind) for part, kind in zip(parts, kinds, strict=True)):
        raise SampleError(f"{where}: sample {index} is {sample!r:.200}, expected (label, args, kwargs)")
    label, args, kwargs = parts
    if not args or not isinstance(args[0], Tensor):
        raise SampleError(f"{where}: the first argument of sample {label!r} is no tensor")
    return label, list(args), kwargs


def _in_folder(folder: Path, name: str) -> ModuleType | None:
    """A Python file of a folder, as a module. Files of the folder may import one another by their names."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"samples_in_{folder.resolve().name}.{name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder.resolve()))
    return module
