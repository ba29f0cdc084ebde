"""From JPEG files to boxes: decoded on the GPU, then one engine with preprocessing, detector and choice of boxes.

    python models/camera.py --target sm86 -o camera.engine
    python models/camera.py a.jpg b.jpg --weights rt_detr.safetensors
    python models/camera.py *.jpg --rate

The engine takes images [B, 3, H, W] uint8 of any size, as `bridge.io.batch` puts them together, and the box of each; it
gives scores [B, K], labels [B, K] and boxes [B, K, 4] in pixels of the picture. The detector is RT-DETR, whose batch is
fixed. On a GPU the script says what was copied to the host between the files and the boxes: nothing. --rate measures
pictures a second, beside torchvision's decoders and PyTorch's preprocessing before an engine of the detector alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import rt_detr
import torch
from common import compile_and_save, load_weights
from torch import Tensor, nn
from torch.nn import functional
from torchvision.io import ImageReadMode
from torchvision.io import decode_jpeg as decode_image_files

import bridge
from bridge.io import batch, decode_jpeg

Way = Callable[[Sequence[bytes]], dict[str, Tensor]]  # from JPEG files to boxes


class Detections(nn.Module):
    """Normalised images [B, 3, size, size] to the `count` best detections of each, in pixels of its box."""

    def __init__(self, detector: nn.Module, count: int) -> None:
        super().__init__()
        self.detector, self.count = detector, count

    def forward(self, x: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        logits, found = self.detector(x)  # [B, Q, classes], [B, Q, 4] of (cx, cy, width, height), 0 to 1
        classes = logits.shape[2]
        scores, index = logits.sigmoid().flatten(1).topk(self.count)  # [B, K]
        best = found.gather(1, (index // classes)[..., None].expand(-1, -1, 4))
        corners = torch.cat((best[..., :2] - best[..., 2:] / 2, best[..., :2] + best[..., 2:] / 2), -1)
        sides = (boxes[:, 2:] - boxes[:, :2]).float()  # [B, 2] of (width, height)
        pixels = corners * torch.cat((sides, sides), 1)[:, None] + torch.cat((boxes[:, :2], boxes[:, :2]), 1)[:, None]
        return {"scores": scores, "labels": index % classes, "boxes": pixels}


class Camera(nn.Module):
    """Images and their boxes to detections."""

    def __init__(self, detections: Detections, size: int) -> None:
        super().__init__()
        self.detections, self.size = detections, size

    def forward(self, images: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        x = bridge.preprocess(images, boxes=boxes, layout="nchw", output_size=self.size, dtype="float32")
        return self.detections(x, boxes)


def parser() -> argparse.ArgumentParser:
    p = rt_detr.parser()
    p.description = __doc__
    p.add_argument("files", nargs="*", metavar="FILE.jpg", help="pictures; default: the example has random ones")
    p.add_argument("--count", type=int, default=20, help="boxes of a picture")
    p.add_argument("--max-side", type=int, default=4096, help="of a picture")
    p.add_argument("--rate", action="store_true", help="also measure pictures a second, beside other ways")
    return p


def bridge_model(argv: list[str]) -> tuple[nn.Module, tuple, dict, dict | None]:
    """The model and its example arguments, for `bridge compile models/camera.py`."""
    options = parser().parse_args(argv)
    torch.manual_seed(options.seed)
    detector = rt_detr.RTDetr(rt_detr.configuration(options))
    load_weights(detector.detr, options)
    count = len(options.files) or options.batch
    images = torch.randint(0, 256, (count, 3, 480, 640), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 640, 480]] * count)
    height, width = (torch.export.Dim(name, min=1, max=options.max_side) for name in ("height", "width"))
    shapes = {"images": {2: height, 3: width}, "boxes": None}
    return Camera(Detections(detector, options.count), options.size).eval(), (images, boxes), {}, shapes


def detect(compiled: nn.Module, files: Sequence[bytes]) -> dict[str, Tensor]:
    """The boxes of encoded pictures, on the GPU."""
    return compiled(*batch(decode_jpeg(files)))


def copies_to_host(compiled: nn.Module, files: Sequence[bytes]) -> list[str]:
    """What a trace has of copies to the host, from the files to the boxes."""
    detect(compiled, files)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        detect(compiled, files)
        torch.cuda.synchronize()
    return [event.name for event in trace.events() if "Memcpy DtoH" in event.name]


def eager_preprocess(images: Sequence[Tensor], size: int) -> Tensor:
    """What bridge.preprocess computes, by PyTorch's operations, picture by picture."""
    resized = [functional.interpolate(image[None].float(), (size, size), mode="bilinear") for image in images]
    return torch.cat(resized) / 255


def ways_without_bridge(camera: nn.Module, size: int, count: int) -> dict[str, Way]:
    """torchvision decodes, PyTorch preprocesses, an engine of the detector does the rest, for `count` pictures."""
    x, boxes = torch.rand(count, 3, size, size), torch.tensor([[0, 0, 640, 480]] * count)
    engine = bridge.compile(camera.get_submodule("detections"), (x, boxes))

    def run(files: Sequence[bytes], device: str) -> dict[str, Tensor]:
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        images = [image.cuda() for image in decode_image_files(data, mode=ImageReadMode.RGB, device=device)]
        corners = torch.tensor([[0, 0, image.shape[2], image.shape[1]] for image in images]).cuda()
        return engine(eager_preprocess(images, size), corners)

    return {f"torchvision's decoder on {device.upper()}": partial(run, device=device) for device in ("cuda", "cpu")}


def pictures_per_second(way: Way, files: Sequence[bytes], seconds: float = 3.0) -> float:
    """Of calls one after the other, for as long as that, after some that warm up."""
    for _ in range(3):
        way(files)
    torch.cuda.synchronize()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        way(files)
        torch.cuda.synchronize()
        calls += 1
    return calls * len(files) / elapsed


def main() -> None:
    options = parser().parse_args()
    model, _, compiled = compile_and_save(bridge_model, options)
    if not torch.cuda.is_available() or options.target is not None:
        return
    if options.files:
        files = [Path(file).read_bytes() for file in options.files]
        found = {name: tensor.tolist() for name, tensor in detect(compiled, files).items()}
        for row, file in enumerate(options.files):
            for score, label, box in zip(found["scores"][row], found["labels"][row], found["boxes"][row], strict=True):
                print(f"{file}: {score:.2f} class {label} at {[round(side) for side in box]}")
        copies = copies_to_host(compiled, files)
        print(f"copies to the host between the files and the boxes: {len(copies)} {copies}")
        if options.rate:
            ways: dict[str, Way] = {"bridge": partial(detect, compiled)}
            ways |= ways_without_bridge(model, options.size, len(files))
            for name, way in ways.items():
                print(f"{name}: {pictures_per_second(way, files):.0f} pictures a second")


if __name__ == "__main__":
    try:
        main()
    except bridge.BridgeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
