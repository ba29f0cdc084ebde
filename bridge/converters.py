"""The converter: one function adds the plugin layer of any bridge op to a network that torch_tensorrt builds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch

from bridge.errors import BuildError
from bridge.op import OPS, Op
from bridge.tensorrt import flavour as flavours
from bridge.tensorrt.attention import SDPA, convert_attention, fits_layer
from bridge.tensorrt.fields import Call
from bridge.tensorrt.flavour import Flavour
from bridge.tensorrt.plugin import DirectPlugins, Plugins

_registered: set[str] = set()


@dataclass
class Conversion:
    """What the converter knows of one network: attached to torch_tensorrt's context as `bridge`.

    calls: every use of an op in the graph, by the FX node's name; empty where bridge did not see the graph.
    layers: the plugin layers added so far, by their names in the network.
    """

    plugins: Plugins
    calls: Mapping[str, Call] = field(default_factory=dict)
    layers: dict[str, Call] = field(default_factory=dict)


def register(flavour: Flavour) -> None:
    """Tells torch_tensorrt how to convert every op that is defined by now, and attention. May be called again."""
    flavour.torch_tensorrt()
    from torch_tensorrt.dynamo.conversion import ConverterPriority, dynamo_tensorrt_converter

    new = [op for op in OPS.values() if op.name not in _registered]
    for op in new:
        dynamo_tensorrt_converter(op.overload, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True)(convert)
    if not _registered:
        dynamo_tensorrt_converter(
            SDPA, capability_validator=fits_layer, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True
        )(convert_attention)
    _registered.update(op.name for op in new)


def convert(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Adds the plugin layer of one call; returns its output tensor, or a tuple of them.

    ctx: torch_tensorrt's ConversionContext. Arguments: ITensors, and torch tensors for constants.
    BuildError: TensorRT refuses the plugin, or a tensor is given as a number.
    """
    op = next(op for op in OPS.values() if op.overload is target)
    conversion = _conversion(ctx)
    node = name.rpartition("/")[2]
    values, attributes = op.bind(args, kwargs)
    call = conversion.calls.get(node)
    dtypes = [None] * len(values) if call is None else [tensor and tensor[0] for tensor in call.tensors]
    tensors = [_tensor(ctx, op, *item, name) for item in zip(op.tensors, values, dtypes, strict=True)]
    layer = conversion.plugins.layer(node, op, tensors, attributes)
    layer.name = f"[bridge::{op.name}]-[{name}]"
    if call is not None:
        conversion.layers[layer.name] = call
    outputs = tuple(layer.get_output(index) for index in range(op.num_outputs))
    return outputs[0] if op.num_outputs == 1 else outputs


def _conversion(ctx: Any) -> Conversion:
    found = getattr(ctx, "bridge", None)
    if found is None:
        flavour = flavours.detect()
        if not flavour.kind.adds_plugins:
            raise BuildError(
                f"{flavour.name} takes plugin layers into an empty network alone, which torch_tensorrt's own compile"
                " does not do; use bridge.compile"
            )
        found = ctx.bridge = Conversion(DirectPlugins(flavour, ctx.net))
    return found


def _tensor(ctx: Any, op: Op, parameter: str, value: Any, dtype: Any, name: str) -> Any:
    """The ITensor of an argument, of the dtype that the graph gives it; None where an optional one is absent."""
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    if value is None:
        return None
    if isinstance(value, (bool, int, float)):
        raise BuildError(f"{op.name}: {parameter} is the number {value}, expected a tensor ({name})")
    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        value = get_trt_tensor(ctx, value, f"{name}_{parameter}")
    wanted = value.dtype if dtype is None else dtype.like(value.dtype)
    return value if value.dtype == wanted else ctx.net.add_cast(value, wanted).get_output(0)
