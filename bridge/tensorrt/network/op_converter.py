"""One converter for all of bridge's ops: it adds a plugin layer, or native TensorRT layers, to a network."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch.fx import Node

from bridge.base.patches import keep
from bridge.core import foreign
from bridge.core.op import Op
from bridge.errors import BuildError
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.converters.attention import SDPA, convert_attention, fits_layer
from bridge.tensorrt.converters.cumulative import CUMSUM, convert_cumsum
from bridge.tensorrt.converters.dynamic_tensors import TENSOR_RULES
from bridge.tensorrt.converters.extents import SCALAR_RULES, Rule
from bridge.tensorrt.converters.integers import INTEGER_RULES
from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.converters.partial_writes import COPY, convert_copy, copies_scalar
from bridge.tensorrt.converters.slices import SLICE, convert_slice, slices_value_dependent
from bridge.tensorrt.install import flavour as flavours
from bridge.tensorrt.install import version_shims
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.plugins import op_calls, shape_rules
from bridge.tensorrt.plugins.fields import Call
from bridge.tensorrt.plugins.plugin_layers import DirectPlugins, Plugins

# torch_tensorrt 2.11 declares these for fixed shapes alone, though their layers need no extents.
_ALSO_DYNAMIC = (torch.ops.aten.gather.default, torch.ops.aten.log1p.default, torch.ops.aten.clone.default)


@dataclass
class Conversion:
    """The state of the conversion to one network, attached to torch_tensorrt's context as `bridge`.

    calls: every call of an op in the graph, by the FX node's name; empty if bridge did not see the graph.
    layers: the plugin layers added so far, by their names in the network.
    native: the nodes that become native TensorRT layers instead.
    constants: arrays that the network points to; keep the conversion until the engine is built.
    """

    plugins: Plugins
    calls: Mapping[str, Call] = field(default_factory=dict)
    layers: dict[str, Call] = field(default_factory=dict)
    native: frozenset[str] = frozenset()
    constants: list[Any] = field(default_factory=list)


class _Registry:
    """bridge's entries in torch_tensorrt's table of converters, with a count of those who need them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._entries: dict[Any, Any] = {}

    def hold(self) -> None:
        """Adds the missing entries; they stay until `release`."""
        with self._lock:
            self._holders += 1
            self._add()

    def refresh(self) -> None:
        """Adds ops and foreign operators registered since, if the entries are held."""
        with self._lock:
            if self._holders:
                self._add()

    def release(self) -> None:
        """Undoes one `hold`; the last one restores the table."""
        from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table

        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            for target, entry in self._entries.items():
                table[target] = [other for other in table[target] if other is not entry]
                if not table[target]:
                    del table[target]
            self._entries.clear()

    def _add(self) -> None:
        from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table

        for target in foreign.targets().keys() - self._entries.keys():
            _add_converter(target, _fits_plugin, convert)
            self._entries[target] = table[target][0]


_registry = _Registry()
hold, refresh, release = _registry.hold, _registry.refresh, _registry.release


@contextlib.contextmanager
def own_conversion(flavour: Flavour) -> Iterator[None]:
    """The context in which bridge lowers and converts, with converters of its own; for one thread at a time.

    They convert bridge's ops. They replace those for attention, slices, partial writes, cumulative sums and arithmetic
    on extents, and allow dynamic shapes for gather, log1p and clone. Outside, torch_tensorrt is unchanged.
    """
    flavour.torch_tensorrt()
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table

    hold()
    rules = (*SCALAR_RULES, *TENSOR_RULES, *INTEGER_RULES)
    converters = [*_OWN_CONVERTERS, *((rule.target, *_converter_of_rule(rule)) for rule in rules)]
    before = {target: table.get(target) for target in (*(target for target, _, _ in converters), *_ALSO_DYNAMIC)}
    try:
        with contextlib.ExitStack() as stack:
            keep(stack, DYNAMO_CONVERTERS, "compilation_settings", "disallowed_targets")
            stack.enter_context(flavours.converting(flavour))
            # Copies: the originals are restored below.
            table.update({target: list(entries or ()) for target, entries in before.items()})
            for target, fits, converter in converters:
                _add_converter(target, _in_own_conversion(fits), converter)
            for target in _ALSO_DYNAMIC:
                table[target] = [dataclasses.replace(entry, supports_dynamic_shapes=True) for entry in table[target]]
            yield
    finally:
        for target, entries in before.items():
            _restore_entry(table, target, entries)
        release()


def _add_converter(target: Any, fits: Callable[..., bool], converter: Callable[..., Any]) -> None:
    """Registers a converter with priority over the others of its target."""
    from torch_tensorrt.dynamo.conversion import ConverterPriority, dynamo_tensorrt_converter

    dynamo_tensorrt_converter(
        target, capability_validator=fits, priority=ConverterPriority.HIGH, supports_dynamic_shapes=True
    )(converter)


def _restore_entry(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _fits_plugin(node: Node, settings: Any = None) -> bool:
    return op_calls.plugin_refusal(node) is None


def _in_own_conversion(fits: Callable[[Node], bool]) -> Callable[..., bool]:
    return lambda node, settings=None: version_shims.in_own_conversion() and fits(node)


def _converter_of_rule(rule: Rule) -> tuple[Callable[[Node], bool], Callable[..., Any]]:
    def convert(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
        operands = [_constant(ctx, value, f"{name}_{index}") for index, value in enumerate(args)]
        return rule.convert(_layers(ctx, f"[{rule.title}]-[{name}]"), operands, kwargs)

    return rule.fits, convert


def _constant(ctx: Any, value: Any, name: str) -> Any:
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    return get_trt_tensor(ctx, value, name) if isinstance(value, (torch.Tensor, numpy.ndarray)) else value


def _convert_slice(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    return convert_slice(_layers(ctx, f"[SLICE]-[{name}]"), args, kwargs)


def _convert_copy(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    part, scalar = (get_trt_tensor(ctx, value, f"{name}_{index}") for index, value in enumerate(args[:2]))
    return convert_copy(_layers(ctx, f"[COPY]-[{name}]"), part, scalar)


def _convert_cumsum(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    return convert_cumsum(_layers(ctx, f"[CUMSUM]-[{name}]"), get_trt_tensor(ctx, args[0], name), args[1])


# (operator, which nodes it takes, converter); the rules for extents are added to these.
_OWN_CONVERTERS: tuple[tuple[Any, Callable[[Node], bool], Callable[..., Any]], ...] = (
    (SDPA, fits_layer, convert_attention),
    (SLICE, slices_value_dependent, _convert_slice),
    (COPY, copies_scalar, _convert_copy),
    (CUMSUM, lambda node: True, _convert_cumsum),
)


def _layers(ctx: Any, name: str) -> Layers:
    return Layers(flavours.detect().trt(), ctx.net, name, _conversion(ctx).constants)


def convert(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Adds the layers of one call; returns its output tensor or tensors.

    ctx: torch_tensorrt's ConversionContext. args, kwargs: ITensors, and torch tensors for constants.
    BuildError: TensorRT refuses the plugin or infers another shape than the graph's, or a number is given for a tensor.
    """
    op, values, attributes = foreign.bind(target, args, kwargs)
    conversion = _conversion(ctx)
    node = name.rpartition("/")[2]
    call = conversion.calls.get(node)
    dtypes = [None] * len(values) if call is None else [tensor and tensor[0] for tensor in call.tensors]
    tensors = [_tensor(ctx, op, *item, name) for item in zip(op.tensors, values, dtypes, strict=True)]
    title = f"[{op.qualified_name}]-[{name}]"
    if node in conversion.native:
        outputs = _add_native_layers(ctx, conversion, op, title, tensors, attributes)
    else:
        layer = conversion.plugins.layer(node, op, tensors, attributes)
        layer.name = title
        if call is not None:
            conversion.layers[layer.name] = call
        outputs = tuple(layer.get_output(index) for index in range(op.num_outputs))
    if call is not None:
        shape_rules.check_network(call, [tuple(output.shape) for output in outputs])
    unused = foreign.num_results(target, op) - op.num_outputs  # none that the graph takes: foreign.reason_against
    return outputs[0] if op.num_outputs == 1 and not unused else (*outputs, *[None] * unused)


def _add_native_layers(
    ctx: Any, conversion: Conversion, op: Op, title: str, tensors: Sequence[Any | None], attributes: Mapping[str, Any]
) -> tuple[Any, ...]:
    native = native_lowerings.find(op.name)
    assert native is not None, op.name
    layers = Layers(flavours.detect().trt(), ctx.net, title, conversion.constants)
    return native.add(layers, tensors, attributes)


def _conversion(ctx: Any) -> Conversion:
    conversion = getattr(ctx, "bridge", None)
    if conversion is None:
        flavour = flavours.detect()
        if not flavour.traits.adds_plugins:
            raise BuildError(
                f"{flavour.name} takes plugin layers only into an empty network, and this one was made without bridge:"
                " call bridge.register() before torch_tensorrt's classes are taken from it, or use bridge.compile"
            )
        conversion = ctx.bridge = Conversion(DirectPlugins(flavour, ctx.net))
    return conversion


def _tensor(ctx: Any, op: Op, parameter: str, value: Any, dtype: Any, name: str) -> Any:
    """The ITensor of an argument, in the graph's dtype; None for an absent optional argument."""
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    if value is None:
        return None
    if isinstance(value, (bool, int, float)):
        raise BuildError(f"{op.name}: {parameter} is the number {value}, expected a tensor ({name})")
    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        value = get_trt_tensor(ctx, value, f"{name}_{parameter}")
    expected = value.dtype if dtype is None else dtype.like(value.dtype)
    return value if value.dtype == expected else ctx.net.add_cast(value, expected).get_output(0)
