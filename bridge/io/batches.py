"""Images of several sizes in one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bridge.errors import OpInputError


def batch(images: Sequence[Tensor], size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Puts images of several sizes into one tensor, each at its top left corner.

    Args:
        images: each [3, height, width], uint8, all on one device.
        size: height and width of the tensor, such as the most that an engine takes; by default the largest of each.
    Returns:
        [N, 3, H, W] uint8, whose elements beside the images are not set; and their boxes [N, 4] int64 of (left, top,
        right, bottom), as bridge.preprocess takes both, with layout "nchw". Sizes are known to the host, so nothing is
        copied from the device.
    Raises:
        OpInputError: there is no image, one has another shape, dtype or device, or is larger than `size`.
    """
    if not images:
        raise OpInputError("batch: there is no image, expected at least one")
    first = images[0]
    for place, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.device != first.device:
            what = f"{image.dtype} {list(image.shape)} on {image.device}"
            raise OpInputError(
                f"batch: image {place} is {what}, expected torch.uint8 [3, height, width] on {first.device}"
            )
    height, width = size or (max(image.shape[1] for image in images), max(image.shape[2] for image in images))
    joined = first.new_empty(len(images), 3, height, width)
    for place, image in enumerate(images):
        if image.shape[1] > height or image.shape[2] > width:
            what = f"{image.shape[1]} x {image.shape[2]} pixels"
            raise OpInputError(f"batch: image {place} has {what}, more than the {height} x {width} of the batch")
        joined[place, :, : image.shape[1], : image.shape[2]] = image
    boxes = torch.tensor([[0, 0, image.shape[2], image.shape[1]] for image in images])
    return joined, boxes.pin_memory().to(first.device, non_blocking=True) if first.is_cuda else boxes
