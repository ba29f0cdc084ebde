"""Scaled dot product attention: TensorRT's attention layer if it computes the same, else plain layers.

torch.export does not decompose aten.scaled_dot_product_attention. torch_tensorrt converts it only if queries, keys and
values have one shape; IAttention also takes fewer key heads than query heads, and keys of another length.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from bridge.errors import UnsupportedOpError
from bridge.graph.model_source import model_line
from bridge.passes.common.constants import Constants
from bridge.passes.common.editor import Editor
from bridge.tensorrt.install import flavour

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
_PARAMETERS = [argument.name for argument in SDPA._schema.arguments]


def fits_layer(node: Node, settings: Any = None) -> bool:
    """Whether IAttention computes what an attention node does. A validator of torch_tensorrt."""
    arguments = _bind(node.args, node.kwargs)
    tensors = [arguments[name] for name in ("query", "key", "value", "attn_mask") if arguments.get(name) is not None]
    shapes = [tensor.meta["val"].shape for tensor in tensors]
    query, key, value = shapes[:3]
    if any(len(shape) != 4 for shape in shapes) or not all(isinstance(x, int) for x in (query[1], key[1], query[3])):
        return False
    heads_fit = query[1] % key[1] == 0 if arguments.get("enable_gqa") else query[1] == key[1]
    equal = [(key[0], query[0]), (key[3], query[3]), *zip(value, key, strict=True)]
    return heads_fit and all(statically_known_true(a == b) for a, b in equal)


def convert_attention(ctx: Any, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Adds an attention layer for a node that `fits_layer`. A converter of torch_tensorrt."""
    from torch_tensorrt.dynamo._SourceIR import SourceIR
    from torch_tensorrt.dynamo.conversion import impl
    from torch_tensorrt.dynamo.conversion.converter_utils import cast_trt_tensor, get_trt_tensor

    arguments = _bind(args, kwargs)
    query, key, value = (get_trt_tensor(ctx, arguments[part], f"{name}_{part}") for part in ("query", "key", "value"))
    scale = arguments["query"].shape[3] ** -0.5 if arguments.get("scale") is None else arguments["scale"]
    query = impl.elementwise.mul(ctx, target, SourceIR.ATEN, f"{name}_scaled_query", query, float(scale))
    layer = add_layer(ctx.net, query, key, value, bool(arguments.get("is_causal")))
    layer.name = f"[ATTENTION]-[aten_ops.scaled_dot_product_attention]-[{name}]"
    layer.decomposable = True  # for when no fused kernel fits
    if arguments.get("attn_mask") is not None:
        mask = get_trt_tensor(ctx, arguments["attn_mask"], f"{name}_mask")
        is_boolean = mask.dtype.name == "BOOL"
        layer.mask = mask if is_boolean else cast_trt_tensor(ctx, mask, query.dtype, f"{name}_mask")
    return layer.get_output(0)


def add_layer(network: Any, query: Any, key: Any, value: Any, causal: bool) -> Any:
    """An attention layer with a softmax, causal from the upper left or not. Queries are scaled already."""
    trt = flavour.detect().trt()
    softmax = trt.AttentionNormalizationOp.SOFTMAX
    if hasattr(network, "add_attention_v2"):
        masks = trt.CausalMaskKind
        # PyTorch's is_causal is the diagonal from the upper left, for any lengths; so is add_attention's.
        return network.add_attention_v2(query, key, value, softmax, masks.UPPER_LEFT if causal else masks.NONE)
    return network.add_attention(query, key, value, softmax, causal)


def give_zeros_without_keys(module: GraphModule) -> None:
    """Has attention layers give zeros, as PyTorch does, for queries that a boolean mask hides every key from, in place.

    The softmax of hidden logits alone is NaN. As the value of a padded token it would reach all others in the next
    layer, with a weight of 0. So such a query is shown every key, and its result replaced.
    """
    editor, constants = Editor(module.graph), Constants()
    for node in list(module.graph.find_nodes(op="call_function", target=SDPA)):
        mask = _bind(node.args, node.kwargs).get("attn_mask")
        if isinstance(mask, Node) and mask.meta["val"].dtype == torch.bool and fits_layer(node):
            held = constants.held(mask)
            if held is None:
                _give_zeros(editor, node, mask, *_computed(editor, node, mask))
            elif not held.any(-1).all():
                _give_zeros(editor, node, mask, *_held(module, node, held))
    editor.sort_topologically()
    module.recompile()


def _computed(editor: Editor, node: Node, mask: Node) -> tuple[Node, Node]:
    """Which queries see a key, [B or 1, H or 1, S or 1, 1], and the mask with every key shown to all others."""
    sees = editor.call_once(aten.any.dim, (mask, -1, True), node)
    blind = editor.call_once(aten.logical_not.default, (sees,), node)
    return sees, editor.call_once(aten.logical_or.default, (mask, blind), node)


def _held(module: GraphModule, node: Node, mask: Tensor) -> tuple[Node, ...]:
    """The same of a mask that the module holds, as tensors that it holds: no converter takes the mask's own any()."""
    sees, nodes = mask.any(-1, keepdim=True), []
    for index, tensor in enumerate((sees, mask | ~sees)):
        name = f"{node.name}_mask_{index}"
        module.register_buffer(name, tensor)
        with module.graph.inserting_before(node):
            nodes.append(module.graph.get_attr(name))
        nodes[-1].meta["val"] = tensor
    return tuple(nodes)


def _give_zeros(editor: Editor, node: Node, mask: Node, sees: Node, shown: Node) -> None:
    result = node.meta["val"]
    node.replace_input_with(mask, shown)
    zero = editor.call_once(aten.full.default, ([], 0.0), node, {"dtype": result.dtype, "device": result.device})
    chosen = editor.call(aten.where.self, (sees, node, zero), node)
    node.replace_all_uses_with(chosen, delete_user_cb=lambda user: user is not chosen)


def expand_attention(module: GraphModule) -> None:
    """Decomposes, in place, every attention node that IAttention does not compute.

    UnsupportedOpError: a node asks for dropout.
    """
    for node in list(module.graph.find_nodes(op="call_function", target=SDPA)):
        if _bind(node.args, node.kwargs).get("dropout_p"):
            raise UnsupportedOpError(f"an engine has no dropout; pass dropout_p=0.0 in eval mode: {model_line(node)}")
        if not fits_layer(node):
            _inline(node, attention)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention, without dropout, in operations that TensorRT fuses.

    query [..., H, L, E], key [..., H or H/g, S, E], value [..., H or H/g, S, V]; returns [..., H, L, V].
    If a boolean mask hides every key from a query, the result is the mean of the values; PyTorch's is zero.
    Source: the pseudocode in that function's documentation. The query is scaled before the product, so that float16
    scores do not overflow.
    """
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (_repeat_heads(tensor, groups) for tensor in (key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)  # [..., H, L, S]
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device).unsqueeze(-1)
        attn_mask = rows >= torch.arange(key.shape[-2], device=query.device)  # [L, S]
    if attn_mask is not None:
        hidden = torch.finfo(scores.dtype).min
        scores = torch.where(attn_mask, scores, hidden) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.softmax(scores, -1) @ value


def _repeat_heads(tensor: Tensor, groups: int) -> Tensor:
    """[..., H, S, E] to [..., H * groups, S, E], each head repeated in place."""
    *batch, heads, length, width = tensor.shape
    repeated = tensor.unsqueeze(-3).expand(*batch, heads, groups, length, width)
    return repeated.reshape(*batch, heads * groups, length, width)


def _bind(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an attention node by name, without those left out."""
    return dict(zip(_PARAMETERS, args, strict=False)) | dict(kwargs)


def _inline(node: Node, function: Callable[..., Any]) -> None:
    """Replaces a node by the operations of `function`, which get its line of the model."""
    operands = list(node.all_input_nodes)
    traced = _trace(node, operands, function)
    copies: dict[Any, Node] = dict(zip(traced.graph.find_nodes(op="placeholder"), operands, strict=True))
    origin: dict[str, Any] = {key: node.meta[key] for key in ("stack_trace", "nn_module_stack") if key in node.meta}
    with node.graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op == "output":
                node.replace_all_uses_with(copies[inner.args[0]])
            elif inner.op != "placeholder":
                copies[inner] = node.graph.node_copy(inner, lambda argument: copies[argument])
                copies[inner].meta |= origin
    node.graph.erase_node(node)


def _trace(node: Node, operands: Sequence[Node], function: Callable[..., Any]) -> GraphModule:
    from torch._dispatch.python import enable_python_dispatcher
    from torch._guards import detect_fake_mode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch_tensorrt.dynamo.lowering import get_decompositions

    values = [argument.meta["val"] for argument in operands]

    def call(*arguments: Tensor) -> Any:
        values_of = dict(zip(operands, arguments, strict=True))
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: values_of[argument])
        return function(*args, **kwargs)

    # Without the two contexts, composite operators of C++ and tensor factories would specialise dynamic extents.
    with enable_python_dispatcher(), detect_fake_mode(values) or contextlib.nullcontext():
        return make_fx(call, decomposition_table=get_decompositions())(*values)
