"""Workloads and peers of preprocess: frames of cameras and pictures, and what detectors and classifiers take."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.bench.peer import Call, Missing, Peer, Prepare, Untimed, Wrap, compiled, imported, plain
from bridge.bench.workload import DTYPES, Workload

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in RGB


@dataclass(frozen=True)
class Preprocess(Workload):
    """preprocess of `batch` images of `size` to `output_size`, normalised channel by channel.

    ragged: every image has a box of its own, of half its sides or more. dtype: of the result.
    """

    batch: int = 1
    size: tuple[int, int] = (1080, 1920)
    output_size: tuple[int, int] = (640, 640)
    mode: str = "bilinear"
    antialias: bool = False
    fit: str = "stretch"
    resize_size: int = 0
    source: str = "rgb"
    ragged: bool = False

    def arguments(self, device: torch.device) -> tuple[list[Any], dict[str, Any]]:
        """images, chroma and boxes."""
        height, width = self.size
        args: list[Any] = [self._bytes(device, self.batch, *self.size, 3)]
        if self.source == "nv12":
            args = [self._bytes(device, self.batch, *self.size)]
            args.append(self._bytes(device, self.batch, height // 2, width // 2, 2))
        if self.ragged:
            extents = torch.tensor([width, height], device=device)
            first = (torch.rand(self.batch, 2, device=device) * extents / 4).long()
            args = [args[0], None, torch.cat((first, extents - first), 1)]
        settings = {
            "output_size": list(self.output_size),
            "mean": list(_MEAN),
            "std": list(_STD),
            "source": self.source,
            "mode": self.mode,
            "antialias": self.antialias,
            "fit": self.fit,
            "resize_size": [self.resize_size] * 2,
            "fill": [114.0],
            "dtype": self.dtype,
        }
        return args, settings

    def batched(self) -> tuple[int, ...]:
        """Images, chroma and boxes."""
        return (0, *([1] if self.source == "nv12" else []), *([2] if self.ragged else []))

    def bytes(self) -> int:
        """Every pixel of the images, and the result."""
        height, width = self.size
        channels = 1.5 if self.source == "nv12" else 3
        results = self.batch * 3 * self.output_size[0] * self.output_size[1]
        return int(self.batch * height * width * channels) + results * self.element

    def traffic(self, args: list[Any], settings: dict[str, Any]) -> int:
        """As `bytes`, with the pixels within the boxes alone."""
        if not self.ragged:
            return self.bytes()
        sides = args[2][:, 2:] - args[2][:, :2]
        whole = self.batch * self.size[0] * self.size[1]
        return self.bytes() - 3 * (whole - int(sides.prod(1).sum()))

    def _bytes(self, device: torch.device, *shape: int) -> Tensor:
        return torch.randint(0, 256, shape, device=device, dtype=torch.uint8)


# What published models take: YOLOv8 (Jocher et al. 2023) letterboxes to 640; ResNet (He et al. 2016) as torchvision's
# weights have it, the shorter side to 256 and of that the middle, antialiased; RT-DETR (Zhao et al. 2024) stretches to
# 640; CLIP (Radford et al. 2021), bicubic.
_PICTURES: dict[str, Any] = {
    "batch": 64,
    "size": (375, 500),
    "output_size": (224, 224),
    "fit": "crop",
    "antialias": True,
}
_MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("YOLOv8, letterbox", {"batch": 16, "fit": "letterbox"}),
    ("ResNet, Resize(256) and CenterCrop(224)", {**_PICTURES, "resize_size": 256}),
)
_MORE_MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("RT-DETR, 720p", {"batch": 16, "size": (720, 1280)}),
    ("CLIP, bicubic", {**_PICTURES, "mode": "bicubic"}),
)


def workloads() -> Iterable[Workload]:
    """Camera frames, a batch and one, and what published models take; of the group `more`, by their names alone."""
    whole = "64 x 1080p to 640"
    yield Preprocess("preprocess", whole, "float16", batch=64)
    yield Preprocess("preprocess", "1080p to 640", "float16")
    yield Preprocess("preprocess", f"{whole}, antialiased", "float16", batch=64, antialias=True)
    yield Preprocess("preprocess", f"{whole}, nv12", "float16", batch=64, source="nv12")
    for name, settings in _MODELS:
        yield Preprocess("preprocess", name, "float16", **settings)
    for dtype in ("float32", "bfloat16"):
        yield Preprocess("preprocess", whole, dtype, "more", variation=True, batch=64)
    yield Preprocess("preprocess", "1080p to 640, antialiased", "float16", "more", antialias=True)
    yield Preprocess("preprocess", f"{whole}, bicubic", "float16", "more", batch=64, mode="bicubic")
    yield Preprocess("preprocess", f"{whole}, boxes", "float16", "more", batch=64, ragged=True)
    for name, settings in _MORE_MODELS:
        yield Preprocess("preprocess", name, "float16", "more", **settings)


def _plainly_resized(workload: Preprocess) -> None:
    """Missing: the peer would need more than one resize of whole images."""
    if workload.fit != "stretch" or workload.ragged or workload.source != "rgb":
        raise Missing("it is compared where whole images are stretched")


def _constants(values: tuple[float, ...], dtype: str) -> Untimed:
    return Untimed(lambda args: torch.tensor(values, device=args[0].device, dtype=DTYPES[dtype])[:, None, None])


def _chain(wrap: Wrap) -> Prepare:
    """The chain that a model has in front of it: permute, float, div, interpolate, sub, div."""

    def prepare(workload: Preprocess, settings: dict[str, Any]) -> Call:
        _plainly_resized(workload)
        size, antialias = workload.output_size, workload.antialias
        mean, std = _constants(_MEAN, "float32"), _constants(_STD, "float32")

        def run(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
            x = images.permute(0, 3, 1, 2).float() / 255
            x = F.interpolate(x, size, mode=workload.mode, align_corners=False, antialias=antialias)
            return ((x - mean) / std).to(DTYPES[workload.dtype])

        wrapped = wrap(run)
        return lambda args: wrapped(args[0], mean(args), std(args))

    return prepare


def _torchvision(workload: Preprocess, settings: dict[str, Any]) -> Call:
    """torchvision.transforms.v2 on a GPU: resize of uint8, to_dtype, normalize."""
    _plainly_resized(workload)
    functional = imported("torchvision.transforms.v2", "functional")
    modes = imported("torchvision.transforms", "InterpolationMode")
    dtype, size = DTYPES[workload.dtype], list(workload.output_size)

    def run(args: list[Any]) -> Any:
        x = functional.resize(args[0].permute(0, 3, 1, 2), size, modes(workload.mode), antialias=workload.antialias)
        return functional.normalize(functional.to_dtype(x, dtype, scale=True), _MEAN, _STD)

    return run


class _CvCuda:
    """CV-CUDA's fused resize, crop, convert and reformat, and its normalize; results are float32, [N, H, W, C]."""

    def __init__(self, workload: Preprocess) -> None:
        self._cvcuda: Any = import_module("cvcuda")
        self._size = workload.output_size
        shape = (workload.batch, *self._size, 3)
        self._resized, self._result = (torch.empty(shape, device="cuda") for _ in range(2))
        self._mean, self._std = (torch.tensor(v, device="cuda").reshape(1, 1, 1, 3) for v in (_MEAN, _STD))
        self._tensors = [self._wrapped(t) for t in (self._resized, self._result, self._mean, self._std)]

    def _wrapped(self, tensor: Tensor) -> Any:
        return self._cvcuda.as_tensor(tensor, "NHWC")

    def __call__(self, args: list[Any]) -> Any:
        """[N, C, H, W], a view."""
        cvcuda, (height, width) = self._cvcuda, self._size
        resized, result, mean, std = self._tensors
        stream = cvcuda.as_stream(torch.cuda.current_stream().cuda_stream)
        cvcuda.resize_crop_convert_reformat_into(
            resized,
            self._wrapped(args[0]),
            (width, height),
            cvcuda.Interp.LINEAR,
            (0, 0),
            scale=1 / 255,
            srcCast=False,
            stream=stream,
        )
        flags = cvcuda.NormalizeFlags.SCALE_IS_STDDEV
        cvcuda.normalize_into(result, resized, mean, std, flags, stream=stream)
        return self._result.permute(0, 3, 1, 2)


def _cvcuda(workload: Preprocess, settings: dict[str, Any]) -> Call:
    _plainly_resized(workload)
    if workload.antialias or workload.mode != "bilinear":
        raise Missing("CV-CUDA's fused operator is bilinear, not antialiased")
    imported("cvcuda", "resize_crop_convert_reformat_into")
    return _CvCuda(workload)


PEERS = (
    Peer("eager", "preprocess", _chain(plain)),
    Peer("inductor", "preprocess", _chain(compiled), compiles=True),
    Peer("torchvision v2", "preprocess", _torchvision, waits=True),  # its constants come from the CPU
    Peer("CV-CUDA", "preprocess", _cvcuda, waits=True),  # for events of its own, of before
)
