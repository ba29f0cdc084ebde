"""Non-maximum suppression."""

import math

import torch
from torch import Tensor

from bridge.base.float32 import below
from bridge.core.binding import bind
from bridge.core.foreign import Arguments, SortedArguments
from bridge.core.op import Counted, only_shapes, op, require, unknown_extent
from bridge.core.tensors import Floating

_MOST_BOXES = 1 << 19


@op
def nms(boxes: Floating, scores: Floating, iou_threshold: float = 0.5) -> Counted:
    """Indices of the boxes that no box of a higher score overlaps by more than a threshold.

    The semantics are torchvision.ops.nms's: boxes are taken by decreasing score (as they stand where scores are
    equal), and each drops those after it with which its intersection over union is greater.

    Args:
        boxes: [N, 4] of (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2; float32, float16 or bfloat16 (float64 on CPU);
            at most 2^19 of them.
        scores: [N] of any of these dtypes, whatever that of boxes.
        iou_threshold: a number, not rounded to float32 before it is compared; from 1 on nothing is dropped.
    Returns:
        [kept] int64, by decreasing score; overlaps are float32 whatever the dtype. Two boxes without area do not drop
        each other, a score that is NaN comes before all others. It has no gradient. On a GPU it waits for the work, for
        the extent of the result is its own: a CUDA graph cannot hold it.
    Raises:
        OpInputError: shapes or dtypes that do not fit; the message names the value.
    """
    _check(boxes, scores, iou_threshold)
    if only_shapes():
        return boxes.new_empty(unknown_extent(), dtype=torch.int64)
    order = scores.sort(descending=True, stable=True).indices
    overlaps = _overlaps(boxes[order].detach())
    # torchvision compares float32 overlaps with the threshold as a double; torch would round it to the nearest float32.
    dropped = overlaps > (iou_threshold if overlaps.dtype == torch.float64 else below(iou_threshold))  # [N, N]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if alive[place]:
            alive[place + 1 :] &= ~dropped[place, place + 1 :]
    return order[alive]


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    require(not math.isnan(iou_threshold), "nms: iou_threshold is nan, expected a number")
    fits = boxes.dim() == 2 and boxes.shape[1] == 4
    require(fits, f"nms: boxes has shape {tuple(boxes.shape)}, expected [boxes, 4]")
    count = boxes.shape[0]
    fits = scores.dim() == 1 and scores.shape[0] == count
    require(fits, f"nms: scores has shape {tuple(scores.shape)}, expected [{count}]")
    require(count <= _MOST_BOXES, f"nms: there are {count} boxes, expected at most {_MOST_BOXES}")


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of every pair, [N, N]."""
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ends = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    sides = (ends - torch.maximum(boxes[:, None, :2], boxes[None, :, :2])).clamp(min=0)
    both = sides[..., 0] * sides[..., 1]
    return both / (areas[:, None] + areas[None, :] - both)


def _from_torchvision(given: Arguments) -> SortedArguments:
    return [given["dets"], given["scores"]], {"iou_threshold": given["iou_threshold"]}


bind("torchvision::nms", "nms", arguments=_from_torchvision)
