"""torchvision's `normalize` and `resize` of its first transforms, exported.

`normalize` asks whether a deviation is 0 once it has the image's dtype, by a tensor: the answer is known, but
torch.export takes it for data. `resize` returns an image that has the size already as it is, which is what resizing it
gives, and compares height and width where neither matters: both put guards on dynamic extents.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.base.patches import replaced

_PACKAGE = "torchvision.transforms"
_OF_TENSORS, _OF_IMAGES = f"{_PACKAGE}._functional_tensor", f"{_PACKAGE}.functional"


@contextlib.contextmanager
def image_transforms_without_guards() -> Iterator[None]:
    """Within it torchvision's `normalize` looks at numbers, and `resize` resizes whatever has dynamic extents."""
    with contextlib.ExitStack() as stack:
        if module := sys.modules.get(_OF_TENSORS):
            stack.enter_context(replaced(module, "normalize", _by_numbers))
        if module := sys.modules.get(_OF_IMAGES):
            stack.enter_context(replaced(module, "_compute_resized_output_size", _unlike_dynamic_extents))
        yield


class _Unlike(list[int]):
    """A size that no image has."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return False


def _unlike_dynamic_extents(original: Callable[..., list[int]]) -> Callable[..., list[int]]:
    def output_size(image_size: Sequence[Any], size: Any, *how: Any, **more: Any) -> list[int]:
        if not any(isinstance(extent, torch.SymInt) for extent in image_size):
            return original(image_size, size, *how, **more)
        both = isinstance(size, Sequence) and len(size) == 2
        return _Unlike(size if both else original(image_size, size, *how, **more))

    return output_size


def _by_numbers(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def normalize(tensor: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim > 2 and _numbers(std)):
            return original(tensor, mean, std, inplace)
        if any(_rounds_to_zero(value, tensor.dtype) for value in std):
            raise ValueError(f"std is {list(std)}, of which {tensor.dtype} has one as 0: a division by zero")
        less = tensor.sub_ if inplace else tensor.sub
        return less(_of_channels(mean, tensor)).div_(_of_channels(std, tensor))

    return normalize


def _numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, (int, float)) for value in values)


def _rounds_to_zero(value: float, dtype: torch.dtype) -> bool:
    limits = torch.finfo(dtype)
    return abs(value) <= limits.tiny * limits.eps / 2  # half of the least number above 0, which rounds to even


def _of_channels(values: Any, image: Tensor) -> Tensor:
    tensor = torch.as_tensor(values, dtype=image.dtype, device=image.device)
    return tensor.view(-1, 1, 1) if tensor.ndim == 1 else tensor
