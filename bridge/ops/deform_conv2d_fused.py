"""Deformable convolution with what stands around it: the mask's sigmoid before it, an activation after it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Floating, LikeFirst
from bridge.ops.deform_conv2d import check_geometry, check_shapes, convolve


@op
def deform_conv2d_fused(
    x: Floating,
    prediction: LikeFirst,
    weight: LikeFirst,
    bias: LikeFirst | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    modulated: bool = True,
    activation: str = "none",
    negative_slope: float = 0.01,
    allow_tf32: bool = False,
) -> Tensor:
    """deform_conv2d of offsets and mask as one convolution predicts them, followed by an activation, in one launch.

    It is activation(deform_conv2d(x, offset, weight, bias, sigmoid(logits))), where prediction is offset and logits,
    one after the other along channels. With G offset groups, K = KH KW taps:

    Args:
        x: [N, C, H, W]; float32, float16 or bfloat16 (float64 on CPU).
        prediction: [N, 3 G K, OH, OW]: 2 G K channels of offsets, as deform_conv2d takes them, and G K of logits of the
            mask. Not modulated: [N, 2 G K, OH, OW], the offsets. The dtype of x, as are all others.
        weight: [O, C / groups, KH, KW]; the number of groups follows from C.
        bias: [O], or None.
        stride, padding, dilation: a number, or (height, width).
        modulated: whether there is a mask (version 2).
        activation: "none", "relu" or "leaky_relu".
        negative_slope: of leaky_relu.
        allow_tf32: as in deform_conv2d.
    Returns:
        [N, O, OH, OW], dense; coordinates, the mask, the sums and the activation are float32 whatever the dtype, and
        rounded once. A NaN offset gives NaN. In TensorRT's engines it has channels last where O is a multiple of 8 and
        the dtype float16, as convolutions there have.
    Raises:
        OpInputError: as deform_conv2d does, and for another activation or a slope that is not finite.
    Source: Dai et al., https://arxiv.org/abs/1703.06211; Zhu et al., https://arxiv.org/abs/1811.11168, section 3.1.
    """
    name, geometry = "deform_conv2d_fused", check_geometry("deform_conv2d_fused", stride, padding, dilation)
    known = activation in ("none", "relu", "leaky_relu")
    require(known, f'{name}: activation is "{activation}", expected none, relu or leaky_relu')
    require(math.isfinite(negative_slope), f"{name}: negative_slope is {negative_slope}, expected a finite number")
    shape = check_shapes(name, geometry, x, ("prediction", prediction, 3 if modulated else 2), weight, bias)
    if only_shapes():
        return x.new_empty(shape)
    offset, mask = prediction, None
    if modulated:
        offsets = prediction.shape[1] // 3 * 2
        offset, logits = prediction[:, :offsets], prediction[:, offsets:]
        mask = (logits if x.dtype == torch.float64 else logits.float()).sigmoid()
    out = convolve(x, offset, mask, weight, bias, geometry)
    if activation == "relu":
        out = F.relu(out)
    elif activation == "leaky_relu":
        out = torch.where(out < 0, negative_slope * out, out)  # a slope beyond float32 is an infinity
    return out.to(x.dtype)
