"""Settings of a compilation: one frozen object, passed whole."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bridge.base import log
from bridge.base.text import listing
from bridge.core.op import OPS, written
from bridge.passes import PASSES

LOWERINGS = ("auto", "plugin", "native")
FLAVOURS = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Config:
    """How to compile a model.

    Args:
        target: GPU to build for: a compute capability ("sm86", "8.6" or "86"), or None for the GPU of this machine.
        flavour: "tensorrt" or "tensorrt_rtx", or None for the one that is installed.
        progress: whether to report a build's progress on stderr; None reports where stderr is a terminal.
        optimization_level: TensorRT's builder optimization level, 0 to 5; None leaves its default.
        workspace_size: the most GPU memory, in bytes, that a layer may use as scratch; None sets no limit.
        tf32: whether float32 convolutions and matrix products may round their inputs to TF32. TensorRT decides: version
            1.6.1 of TensorRT-RTX was seen to round where this forbids it.
        tuned_profile: whether an engine with dynamic shapes gets a second profile, of the tuned shapes alone, which are
            the example's: TensorRT-RTX has faster kernels for fixed shapes. Calls with those shapes use it. False makes
            builds shorter.
        lowering: what a bridge op becomes: "plugin", bridge's kernel; "native", layers of TensorRT's own, or an error
            where they cannot compute it; "auto", what bridge.tune measured here, else the default of the op. Or a
            mapping from ops to these, such as {"rope": "native"}; the ops it leaves out take "auto".
        passes: which graph rewrites look for code that computes what an op does: True, those that are on by default;
            False, none; or the names of some, such as ["rope"].
        generate: whether operators that TensorRT has no converter for become plugins, whose kernels PyTorch's Inductor
            writes; False makes them an error. What is defined in Python as an operator, by torch.library or
            @bridge.op, becomes one in any case.
        check_generated: whether new plugins with kernels by Inductor are compared with PyTorch, on a GPU of the target;
            a wrong result is an error.
        fallback: whether torch.compile(backend="bridge") runs what no engine can in PyTorch; False makes that an error.
        growth: how many times the example's number of elements an input may have in dynamic dimensions without an upper
            bound, which torch.compile may give: an engine is built for a bounded range.
        embed: whether the plan holds the plugin libraries that it needs, for hosts that load no other file.
        cache: whether to keep built engines on disk, and to take them from there.
        cache_dir: the folder of that cache; None takes the environment's BRIDGE_CACHE_DIR, else XDG_CACHE_HOME's
            bridge, else ~/.cache/bridge.
        cache_size: the most bytes that it may hold; None takes BRIDGE_CACHE_SIZE, else 20 GiB.
        cuda_graph: whether calls replay a CUDA graph, captured once for each combination of input shapes.
        static_outputs: whether a call returns the tensors of the call before, overwritten, where the shapes are the
            same.
    Raises:
        TypeError: a value is of another type.
        ValueError: a value is out of range.
    """

    target: str | None = None
    flavour: str | None = None
    progress: bool | None = None
    optimization_level: int | None = None
    workspace_size: int | None = None
    tf32: bool = True
    tuned_profile: bool = True
    lowering: str | Mapping[str, str] = "auto"
    passes: bool | Sequence[str] = True
    generate: bool = False
    check_generated: bool = True
    fallback: bool = False
    growth: int = 64
    embed: bool = False
    cache: bool = True
    cache_dir: str | None = None
    cache_size: int | None = None
    cuda_graph: bool = False
    static_outputs: bool = False

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            _check_kind(name, getattr(self, name), kinds)
        if self.flavour not in (None, *FLAVOURS):
            raise ValueError(f"flavour is {self.flavour!r}; expected one of {', '.join(FLAVOURS)}, or None")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level is {self.optimization_level}; expected 0 to 5, or None")
        for name in ("workspace_size", "cache_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected a positive number of bytes, or None")
        _check_lowering(self.lowering)
        _check_passes(self.passes)
        if self.growth < 1:
            raise ValueError(f"growth is {self.growth}; expected 1 or more")

    def with_settings(self, settings: dict[str, Any]) -> "Config":
        """A copy with some settings changed. TypeError names the nearest setting to one that does not exist."""
        for name in settings:
            if name not in _KINDS:
                raise TypeError(f"bridge has no setting {name!r}; {_suggest(name)}")
        return replace(self, **settings)

    def lowering_of(self, op: str) -> str:
        """What the setting says of one op."""
        return self.lowering if isinstance(self.lowering, str) else self.lowering.get(op, "auto")

    @property
    def runtime(self) -> dict[str, bool]:
        """Of these settings, those of a CompiledModule."""
        return {"cuda_graph": self.cuda_graph, "static_outputs": self.static_outputs}

    @property
    def reports_progress(self) -> bool:
        """Whether a build says on stderr how far it is."""
        return log.to_terminal() if self.progress is None else self.progress


_KINDS: dict[str, tuple[type, ...]] = {
    "target": (str, type(None)),
    "flavour": (str, type(None)),
    "progress": (bool, type(None)),
    "optimization_level": (int, type(None)),
    "workspace_size": (int, type(None)),
    "tf32": (bool,),
    "tuned_profile": (bool,),
    "lowering": (str, Mapping),
    "passes": (bool, list, tuple),
    "generate": (bool,),
    "check_generated": (bool,),
    "fallback": (bool,),
    "growth": (int,),
    "embed": (bool,),
    "cache": (bool,),
    "cache_dir": (str, type(None)),
    "cache_size": (int, type(None)),
    "cuda_graph": (bool,),
    "static_outputs": (bool,),
}
assert tuple(_KINDS) == tuple(field.name for field in fields(Config))


def _check_kind(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not fits:
        expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{name} is {value!r} of type {type(value).__name__}; expected {expected}")


def _check_lowering(value: str | Mapping[str, str]) -> None:
    for op, lowering in value.items() if isinstance(value, Mapping) else [(None, value)]:
        if op is not None and op not in OPS:
            names = listing(sorted(written()), op)
            raise ValueError(f"lowering names the op {op!r}, which does not exist; the ops are {names}")
        if lowering not in LOWERINGS:
            where = "lowering" if op is None else f"lowering[{op!r}]"
            raise ValueError(f"{where} is {lowering!r}; expected one of {', '.join(LOWERINGS)}")


def _check_passes(value: bool | Sequence[str]) -> None:
    known = [each.name for each in PASSES]
    for name in [] if isinstance(value, bool) else value:
        if name not in known:
            raise ValueError(f"passes names {name!r}, which does not exist; the passes are {listing(known, name)}")


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name, _KINDS, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"its settings are {', '.join(_KINDS)}"
