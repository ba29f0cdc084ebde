"""What torch.onnx's optimizer leaves undone, or gets wrong."""

from typing import Any

_FUSED = ("Conv", "ConvTranspose", "Gemm")  # with the batch norm that follows
_LARGEST = 1 << 16  # elements of a constant that is computed here


def fold_filled_tensors(model: Any) -> None:
    """Computes constants that depend on tensors of zeros, such as where the levels of deformable attention begin.

    The optimizer keeps such a tensor as a node, and with it all that is made of it.
    """
    from onnxscript.optimizer import fold_constants_ir

    def fills(node: Any) -> bool | None:
        return True if node.op_type == "ConstantOfShape" else None

    fold_constants_ir(model, should_fold=fills, output_size_limit=_LARGEST)


def cast_fused_weights(model: Any) -> None:
    """Gives weights that were fused with a batch norm the dtype of what they multiply.

    onnxscript 0.7.2 makes float32 of bfloat16 there.
    """
    import onnx_ir

    for node in model.graph:
        for value in node.inputs[1:] if node.op_type in _FUSED else ():
            dtype = node.inputs[0].dtype
            if value is not None and value.is_initializer() and dtype is not None and value.dtype != dtype:
                value.const_value = onnx_ir.tensor(value.const_value.numpy().astype(dtype.numpy()), name=value.name)
                value.dtype = dtype
