"""Engines without a GPU: the network that a door fills is evaluated on the CPU, and its results compared with eager.

Within `interpreted()` bridge.compile and torch.compile(backend="bridge") go their whole way, to the network; instead of
building it, a call evaluates its layers (see layer_interpreter/), and plugin layers by their op's reference.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from layer_interpreter import interpret
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import bridge
from bridge.doors import pipeline
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.network import build
from bridge.tensorrt.run import engine
from bridge.tensorrt.run.input_check import InputCheck


@dataclass
class _Network:
    """What a network needs to be evaluated, and what it points to."""

    network: Any
    calls: Mapping[str, Any]  # of plugin layers, by their names
    outputs: Sequence[str]
    kept: Any


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Within it no engine is built: calls of compiled modules evaluate the network on CPU tensors."""
    networks: dict[bytes, _Network] = {}
    filled: list[_Network] = []
    fill = pipeline.fill_network

    def fill_network(flavour: Any, module: Any, settings: Any, builder: Any, network: Any, conversion: Any, *rest: Any):
        filling = fill(flavour, module, settings, builder, network, conversion, *rest)
        filled.append(_Network(network, conversion.layers, rest[-1], (builder, conversion, filling)))
        return filling

    def build_engine(*args: Any) -> bytes:
        key = f"network {len(networks)}".encode()
        networks[key] = filled[-1]
        return key

    class Evaluated:
        """In the place of a loaded engine."""

        def __init__(self, file: Any, device: Any, **settings: Any) -> None:
            self.file = file
            self.check = InputCheck(file.inputs, torch.device("cpu"))
            self.network = networks[file.engine]

        def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            self.check.check(inputs)
            names = [spec.name for spec in self.file.inputs]
            given = dict(zip(names, inputs, strict=True))
            return tuple(interpret(detect().trt(), self.network.network, given, self.network.calls))

    with (
        mock.patch.object(pipeline, "fill_network", fill_network),
        mock.patch.object(build, "build_engine", build_engine),
        mock.patch.object(engine, "Engine", Evaluated),
        torch.no_grad(),
    ):
        yield


def ahead(
    model: torch.nn.Module, args: Sequence[Any], dynamic_shapes: Any = None, **settings: Any
) -> Callable[..., Any]:
    """By bridge.compile, within `interpreted()`."""
    return bridge.compile(model, tuple(args), dynamic_shapes=dynamic_shapes, target="sm86", cache=False, **settings)


def just_in_time(model: Callable[..., Any], dynamic: bool | None = None, **settings: Any) -> Callable[..., Any]:
    """By torch.compile(backend="bridge"), within `interpreted()`."""
    options = {"target": "sm86", "cache": False, **settings}
    return torch.compile(model, backend="bridge", dynamic=dynamic, options=options)


def assert_same(found: Any, expected: Any, rtol: float | None = None, atol: float | None = None) -> None:
    """The same structure, dtypes, shapes and, within a tolerance by dtype, values; NaN equals NaN."""
    leaves, spec = pytree.tree_flatten(found)
    wanted, wanted_spec = pytree.tree_flatten(expected)
    assert spec == wanted_spec, f"{spec}, expected {wanted_spec}"
    for mine, theirs in zip(leaves, wanted, strict=True):
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert type(mine) is type(theirs) and mine == theirs, f"{mine!r}, expected {theirs!r}"


def as_on_a_gpu(args: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors like these that say they are on a GPU, to capture with where there is none.

    PyTorch gives a GPU operators and layouts of its own. Models with weights, or whose constants are computed while
    they are lowered, cannot be captured so.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        return tuple(torch.empty_like(arg, device="cuda") for arg in args)
