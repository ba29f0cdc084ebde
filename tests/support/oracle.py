"""Engines without a GPU: the network is evaluated on the CPU, to compare its results with eager.

Within `interpreted()`, bridge.compile and torch.compile(backend="bridge") run up to the network, and build no engine. A
call evaluates the network's layers (see layer_interpreter/); plugin layers are computed by their op's reference.
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
    """A network, with what its evaluation needs. owners: keep the memory that it points to alive."""

    network: Any
    calls: Mapping[str, Any]  # of plugin layers, by their names
    outputs: Sequence[str]
    owners: Any


@contextlib.contextmanager
def interpreted(*, engines: bool = False) -> Iterator[None]:
    """The context in which compiled modules evaluate the network on CPU tensors. engines: they are built, too."""
    networks: dict[bytes, _Network] = {}
    filled: list[_Network] = []
    fill, build_one = pipeline.fill_network, build.build_engine

    def fill_network(flavour: Any, module: Any, settings: Any, builder: Any, network: Any, conversion: Any, *rest: Any):
        result = fill(flavour, module, settings, builder, network, conversion, *rest)
        filled.append(_Network(network, conversion.layers, rest[-1], (builder, conversion, result)))
        return result

    def build_engine(*args: Any) -> bytes:
        key = build_one(*args) if engines else f"network {len(networks)}".encode()
        networks[key] = filled[-1]
        return key

    class Evaluated:
        """Replaces a loaded engine."""

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
    """Compiles by bridge.compile, within `interpreted()`."""
    return bridge.compile(model, tuple(args), dynamic_shapes=dynamic_shapes, target="sm86", cache=False, **settings)


def just_in_time(model: Callable[..., Any], dynamic: bool | None = None, **settings: Any) -> Callable[..., Any]:
    """Compiles by torch.compile(backend="bridge"), within `interpreted()`."""
    options = {"target": "sm86", "cache": False, **settings}
    return torch.compile(model, backend="bridge", dynamic=dynamic, options=options)


def assert_same(actual: Any, expected: Any, rtol: float | None = None, atol: float | None = None) -> None:
    """The same structure, dtypes, shapes and, within a tolerance by dtype, values; NaN equals NaN."""
    leaves, spec = pytree.tree_flatten(actual)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert spec == expected_spec, f"{spec}, expected {expected_spec}"
    for value, reference in zip(leaves, expected_leaves, strict=True):
        if isinstance(reference, torch.Tensor):
            torch.testing.assert_close(value, reference, rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert type(value) is type(reference) and value == reference, f"{value!r}, expected {reference!r}"


def as_on_a_gpu(args: Sequence[Any]) -> tuple[Any, ...]:
    """Fake tensors like these on a GPU, to capture models as on a GPU without one.

    PyTorch uses other operators and layouts on GPUs. Models with weights, or with constants that lowering computes,
    cannot be captured this way.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        return tuple(torch.empty_like(arg, device="cuda") for arg in args)
