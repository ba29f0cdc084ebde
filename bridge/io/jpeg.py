"""JPEG files decoded on the GPU by nvJPEG, through torchvision; on a CPU by libjpeg."""

import threading
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from bridge.errors import DecodeError, FlavourError

Encoded = bytes | bytearray | memoryview | Tensor
"""The bytes of a file; a tensor of them is uint8 [bytes], on the CPU."""

_START = b"\xff\xd8\xff"  # of every JPEG file: the start of the image, and the next marker


def decode_jpeg(files: Sequence[Encoded], device: torch.device | str = "cuda") -> list[Tensor]:
    """Decodes JPEG files into images on a device, all of them in one call of the decoder.

    On a GPU nvJPEG decodes them, by the GPU's JPEG engines where it has some. The encoded bytes are copied there, and
    nothing is copied back. Work on the current stream waits for the images.

    Args:
        files: the bytes of each file.
        device: where the images are to be.
    Returns:
        An image [3, height, width] uint8 for each file, in RGB; of a gray file the three channels are equal. The EXIF
        orientation is not applied.
    Raises:
        DecodeError: a file is empty, no JPEG, damaged, or of a kind that the decoder does not take; it is named.
        FlavourError: torchvision is not installed, or has no decoder for the device.
    """
    encoded = [_encoded(place, file) for place, file in enumerate(files)]
    where = torch.device(device)
    decode = _decoder(where)
    try:
        return decode(encoded) if encoded else []
    except RuntimeError as error:
        raise _culprit(decode, encoded, error) from error


def _encoded(place: int, file: Encoded) -> Tensor:
    """The bytes as a tensor on the CPU. DecodeError: they are those of no JPEG file."""
    if isinstance(file, Tensor):
        fits = file.dtype == torch.uint8 and file.dim() == 1 and file.device.type == "cpu"
        if not fits:
            shape = list(file.shape)
            raise DecodeError(
                f"file {place} is a {file.dtype} tensor {shape} on {file.device}, expected uint8 [bytes] on cpu"
            )
        data = file.contiguous()
    else:
        data = torch.frombuffer(bytearray(file), dtype=torch.uint8) if len(file) else torch.empty(0, dtype=torch.uint8)
    start = bytes(data[: len(_START)].tolist())
    if start != _START:
        begin = f", which begins with {start.hex(' ')}" if start else ""
        raise DecodeError(f"file {place} is no JPEG file: it has {len(data)} bytes{begin}, expected ff d8 ff")
    return data


def _decoder(device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
    """torchvision's. FlavourError: it is not there."""
    io = _torchvision()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise FlavourError(f"there is no CUDA GPU here to decode on; pass device='cpu' for {device}")

    def decode(encoded: list[Tensor]) -> list[Tensor]:
        return io.decode_jpeg(encoded, mode=io.ImageReadMode.RGB, device=device)

    return _ordered(decode, device) if device.type == "cuda" else decode


_thread = threading.local()


def _ordered(decode: Callable[[list[Tensor]], list[Tensor]], device: torch.device) -> Callable[..., list[Tensor]]:
    """The same in the order of the current stream.

    torchvision writes images on a stream of its own, which waits for nothing. So their memory comes from a stream that
    has no other work: there it is free once all streams that read it are done.
    """

    def decode_in_order(encoded: list[Tensor]) -> list[Tensor]:
        with torch.cuda.device(device):
            index, caller = torch.cuda.current_device(), torch.cuda.current_stream()
            streams = _thread.__dict__.setdefault("streams", {})
            if index not in streams:
                streams[index] = torch.cuda.Stream()
            stream = streams[index]
            with torch.cuda.stream(stream):
                images = decode(encoded)
            caller.wait_stream(stream)
            for image in images:
                image.record_stream(caller)
        return images

    return decode_in_order


def _torchvision() -> ModuleType:
    try:
        import torchvision.io as io

        torch.ops.image.decode_jpeg  # noqa: B018 - raises where torchvision's decoders did not load
    except (ImportError, AttributeError) as error:
        raise FlavourError(
            f"JPEG files are decoded by torchvision, which cannot be used here ({error}): "
            "pip install 'bridge-tensorrt[decode]'"
        ) from error
    return io


def _culprit(decode: Callable[[list[Tensor]], list[Tensor]], encoded: list[Tensor], error: RuntimeError) -> DecodeError:
    """The error of the first file that cannot be decoded by itself: the decoder's own names none."""
    for place, file in enumerate(encoded):
        try:
            decode([file])
        except RuntimeError as reason:
            return DecodeError(f"file {place}, of {len(file)} bytes, cannot be decoded: {_first_line(reason)}")
    return DecodeError(f"the {len(encoded)} files cannot be decoded together: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
