"""From a camera's or a decoder's bytes to the tensor that a model takes: crop, resize, colour, normalise."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.core.op import Pair, only_shapes, op, require
from bridge.core.tensors import Bytes, Index

SOURCES = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "gray": 1, "nv12": 1}
"""What images may hold, and the channels of each; of nv12 the tensor of the images has the luma alone."""
RESULTS = {"rgb": 3, "bgr": 3, "gray": 1}
# Red and blue of luma (ITU-R BT.601-7 section 2.5.1, BT.709-6 section 3.2).
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
_MOST_EXTENT = 1 << 15  # of a result; times an image's extents it must stay below 2^30
_WORDS = {
    "source": tuple(SOURCES),
    "result": tuple(RESULTS),
    "layout": ("nhwc", "nchw"),
    "mode": ("nearest", "nearest-exact", "bilinear", "bicubic"),
    "fit": ("stretch", "letterbox", "crop"),
    "matrix": tuple(MATRICES),
    "dtype": ("float32", "float16", "bfloat16", "float64"),
}


@op
def preprocess(
    images: Bytes,
    chroma: Bytes | None = None,
    boxes: Index | None = None,
    output_size: Pair = 224,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    scale: float = 1 / 255,
    source: str = "rgb",
    result: str = "rgb",
    layout: str = "nhwc",
    mode: str = "bilinear",
    antialias: bool = False,
    rounded: bool = False,
    fit: str = "stretch",
    resize_size: Pair = 0,
    center: bool = True,
    fill: Sequence[float] = (0.0,),
    matrix: str = "bt601",
    full_range: bool = False,
    channels_last: bool = False,
    dtype: str = "float32",
) -> Tensor:
    """Crops, resizes, converts colours and normalises 8-bit images, in one launch: (x * scale - mean) / std.

    Resizing is torch.nn.functional.interpolate's with align_corners=False, of the box as if it were the whole image,
    as torchvision.transforms.v2.functional.resized_crop does. Values between the steps are float32.

    Args:
        images: uint8, [N, H, W, C], or [N, C, H, W] with `layout` "nchw"; of nv12 the luma [N, H, W]. int8 stands for
            the same bytes: an engine's plugin gets them so.
        chroma: of nv12 alone: uint8, [N, H / 2, W / 2, 2] of (Cb, Cr), each for the middle of two by two pixels.
        boxes: [N, 4] of (left, top, right, bottom) in whole pixels, int32 or int64: the part of each image that is
            taken, such as its own size in a padded batch. Even numbers for nv12. By default all of it.
        output_size: a number, or (OH, OW).
        mean, std: one value, or one for each channel of the result, in units of x * scale.
        scale: what a level of 0 to 255 is multiplied with first.
        source: "rgb", "bgr", "rgba", "bgra" (whose alpha is dropped), "gray" or "nv12".
        result: "rgb", "bgr" or "gray" (0.299 R + 0.587 G + 0.114 B).
        layout: of images, "nhwc" or "nchw".
        mode: "nearest", "nearest-exact" (which is PIL's), "bilinear" or "bicubic".
        antialias: whether bilinear and bicubic widen their filter where they shrink, as PIL does.
        rounded: whether resized levels are rounded and clamped to 0 … 255, as PIL and torchvision have them for 8-bit
            images; without it they stay as interpolated, as of a tensor of floats.
        fit: "stretch" to resize_size; "letterbox": as large as fits in it, both sides by one factor; "crop": as small
            as covers it.
        resize_size: a number, or (RH, RW); 0 stands for output_size. Torchvision's Resize(256), CenterCrop(224) is
            fit "crop", resize_size 256, output_size 224.
        center: whether the resized image stands in the middle of the result; otherwise at its top left corner. What is
            beyond the result is cut off.
        fill: levels around it, one or one for each channel of the result, before they are normalised.
        matrix, full_range: of nv12: "bt601" or "bt709"; whether luma is 0 … 255 and not 16 … 235.
        channels_last: whether the result is [N, OH, OW, C].
        dtype: of the result: "float32", "float16" or "bfloat16" ("float64" on CPU); rounded to once.
    Returns:
        [N, C, OH, OW], or [N, OH, OW, C]. Colours of nv12 are converted after resizing, and clamped to 0 … 255. NaN on
        a GPU for an image whose box is empty, not within it, or odd for nv12.
    Raises:
        OpInputError: shapes, dtypes or attributes that do not fit; on CPU also a box that does not.
    Source: torch.nn.functional.interpolate, torchvision.transforms.v2, PIL.Image.resize; ITU-R BT.601-7, BT.709-6.
    """
    out, resize = _pair(output_size), _pair(resize_size)
    words = {"source": source, "result": result, "layout": layout, "mode": mode, "fit": fit, "matrix": matrix}
    _check_words({**words, "dtype": dtype})
    resize = out if resize == (0, 0) else resize
    _check_numbers(out, resize, {"mean": mean, "std": std, "fill": fill}, scale, RESULTS[result])
    height, width = _check_tensors(images, chroma, boxes, source, layout)
    _check_sizes(height, width, resize)
    channels, count = RESULTS[result], images.shape[0]
    shape = (count, *out, channels) if channels_last else (count, channels, *out)
    wide = getattr(torch, dtype)
    if only_shapes():
        return images.new_empty(shape, dtype=wide)
    exact = torch.float64 if dtype == "float64" else torch.float32
    planes = _planes(images, chroma, source, layout)
    canvas = _channels(fill, channels, images.device, exact).expand(count, channels, *out).clone()
    for rows, box in _boxes(boxes, count, height, width, source):
        (size, offset) = placement(box, out, resize, fit, center)
        levels = [_resized(plane[rows].to(exact), box, size, step, mode, antialias) for plane, step in planes]
        colours = _rgb(torch.cat(levels, 1), source, matrix, full_range)
        colours = colours.round().clamp(0, 255) if rounded else colours
        _paste(canvas[rows], _converted(colours, source, result), offset)
    means, deviations = (_channels(values, channels, images.device, torch.float64) for values in (mean, std))
    normalised = canvas * (scale / deviations).to(exact) + (-means / deviations).to(exact)
    return (normalised.permute(0, 2, 3, 1) if channels_last else normalised).to(wide)


def placement(
    box: Sequence[int], out: tuple[int, int], resize: tuple[int, int], fit: str, center: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to which a box (left, top, right, bottom) is resized, and where that stands in the result."""
    (height, width), (high, wide) = (box[3] - box[1], box[2] - box[0]), resize
    if fit == "letterbox":  # to the nearest pixel, halves up
        if high * width <= wide * height:
            wide = max(1, (2 * width * high + height) // (2 * height))
        else:
            high = max(1, (2 * height * wide + width) // (2 * width))
    elif fit == "crop":  # down, as torchvision's Resize
        if high * width >= wide * height:
            wide = width * high // height
        else:
            high = height * wide // width
    offsets = [_offset(room - size) if center else 0 for room, size in zip(out, (high, wide), strict=True)]
    return (high, wide), (offsets[0], offsets[1])


def _offset(room: int) -> int:
    """Half of the room, down; what is cut off is rounded as torchvision's CenterCrop does, halves to even."""
    return room // 2 if room >= 0 else -((-room + ((-room >> 1) & 1)) >> 1)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _channels(values: Sequence[float], channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[channels, 1, 1]"""
    values = list(values) * channels if len(values) == 1 else list(values)
    return torch.tensor(values, device=device, dtype=dtype)[:, None, None]


def _check_words(given: dict[str, str]) -> None:
    for name, word in given.items():
        known = ", ".join(_WORDS[name])
        require(word in _WORDS[name], f'preprocess: {name} is "{word}", expected one of {known}')


def _check_numbers(
    out: tuple[int, int], resize: tuple[int, int], lists: dict[str, Sequence[float]], scale: float, channels: int
) -> None:
    for name, sizes in (("output_size", out), ("resize_size", resize)):
        fits = all(1 <= size <= _MOST_EXTENT for size in sizes)
        require(fits, f"preprocess: {name} is {sizes[0]} x {sizes[1]}, expected 1 to {_MOST_EXTENT}")
    for name, values in lists.items():
        fits = len(values) in (1, channels)
        require(fits, f"preprocess: {name} has {len(values)} values, expected 1 or {channels}")
        fits = all(math.isfinite(value) and (name != "std" or value != 0) for value in values)
        wanted = "finite numbers other than 0" if name == "std" else "finite numbers"
        require(fits, f"preprocess: {name} is {[float(value) for value in values]}, expected {wanted}")
    require(math.isfinite(scale), f"preprocess: scale is {scale}, expected a finite number")


def _check_tensors(
    images: Tensor, chroma: Tensor | None, boxes: Tensor | None, source: str, layout: str
) -> tuple[int, int]:
    """Height and width of the images."""
    shape = tuple(images.shape)
    if source == "nv12":
        require(len(shape) == 3, f"preprocess: images has shape {shape}, expected [images, height, width] of nv12")
        even = shape[1] % 2 == 0 and shape[2] % 2 == 0
        require(even, f"preprocess: images has shape {shape}, expected an even height and width of nv12")
        halves = (shape[0], shape[1] // 2, shape[2] // 2, 2)
        given = None if chroma is None else tuple(chroma.shape)
        require(given is not None, "preprocess: chroma is absent, expected [images, height / 2, width / 2, 2] of nv12")
        require(given == halves, f"preprocess: chroma has shape {given}, expected {halves}")
        height, width = shape[1:]
    else:
        require(len(shape) == 4, f"preprocess: images has shape {shape}, expected 4 dimensions")
        require(chroma is None, f"preprocess: chroma is given, which {source} images have not")
        channels, (height, width) = (shape[3], shape[1:3]) if layout == "nhwc" else (shape[1], shape[2:])
        wanted = SOURCES[source]
        require(channels == wanted, f"preprocess: images has {channels} channels in {layout}, expected {wanted}")
    if boxes is not None:
        given = tuple(boxes.shape)
        require(given == (shape[0], 4), f"preprocess: boxes has shape {given}, expected [{shape[0]}, 4]")
    return height, width


def _check_sizes(height: int, width: int, resize: tuple[int, int]) -> None:
    require(height > 0 and width > 0, f"preprocess: images of {height} x {width} have no pixel")
    sides = [side for side in (height, width) if isinstance(side, int)]  # the native library checks others
    require(
        max(sides, default=0) * max(resize) < 1 << 30,
        f"preprocess: images of {height} x {width} resized to {resize[0]} x {resize[1]} are too large: the product of "
        "the longest sides is 2^30 or more",
    )


def _planes(images: Tensor, chroma: Tensor | None, source: str, layout: str) -> list[tuple[Tensor, int]]:
    """Planes [N, C, H, W], and pixels of the image to one of the plane's."""
    images = images.view(torch.uint8)
    if source == "nv12":
        assert chroma is not None
        return [(images[:, None], 1), (chroma.view(torch.uint8).permute(0, 3, 1, 2), 2)]
    return [(images.permute(0, 3, 1, 2) if layout == "nhwc" else images, 1)]


def _boxes(boxes: Tensor | None, count: int, height: int, width: int, source: str) -> Iterator[tuple[slice, list[int]]]:
    """Rows of the batch, and the box that they have in common."""
    if boxes is None:
        if count:
            yield slice(0, count), [0, 0, width, height]
        return
    for row, (left, top, right, bottom) in enumerate(boxes.tolist()):
        box = [left, top, right, bottom]
        fits = 0 <= left < right <= width and 0 <= top < bottom <= height
        require(fits, f"preprocess: row {row} of boxes is {box}, expected a part of {width} x {height} pixels")
        even = source != "nv12" or all(value % 2 == 0 for value in box)
        require(even, f"preprocess: row {row} of boxes is {box}, expected even numbers of nv12")
        yield slice(row, row + 1), box


def _resized(plane: Tensor, box: list[int], size: tuple[int, int], step: int, mode: str, antialias: bool) -> Tensor:
    left, top, right, bottom = (value // step for value in box)
    part = plane[:, :, top:bottom, left:right]
    if antialias and not mode.startswith("nearest"):
        rows, columns = (_shares(*axis, mode, part) for axis in zip(part.shape[2:], size, strict=True))
        return rows @ part @ columns.T
    return F.interpolate(part, size, mode=mode, align_corners=None if mode.startswith("nearest") else False)


def _shares(pixels: int, places: int, mode: str, like: Tensor) -> Tensor:
    """[places, pixels], what each pixel of an axis gives to an antialiased sample.

    interpolate is wrong where a width becomes 1 (torch 2.11, CPU, tensors in NCHW).
    """
    axes = [torch.arange(count, device=like.device, dtype=like.dtype) + 0.5 for count in (places, pixels)]
    scale = axes[0].new_tensor(pixels) / places
    x = ((axes[1] - axes[0][:, None] * scale) / scale.clamp(min=1)).abs()
    if mode == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:  # Keys 1981, with a = -0.5
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x <= 1, near, torch.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdim=True)


def _rgb(levels: Tensor, source: str, matrix: str, full_range: bool) -> Tensor:
    """[N, 3, …] of red, green and blue, or [N, 1, …] of gray."""
    if source == "nv12":
        offset, factors = yuv_matrix(matrix, full_range)
        shifted = levels - levels.new_tensor(offset)[:, None, None]
        return torch.einsum("ij,njhw->nihw", levels.new_tensor(factors), shifted).clamp(0, 255)
    order = [2, 1, 0] if source in ("bgr", "bgra") else list(range(min(levels.shape[1], 3)))
    return levels[:, order]


def yuv_matrix(matrix: str, full_range: bool) -> tuple[list[float], list[list[float]]]:
    """What to subtract of (Y, Cb, Cr), and the matrix from there to (R, G, B)."""
    red, blue = MATRICES[matrix]
    green = 1 - red - blue
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    from_red, from_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    rows = [
        [luma, 0.0, from_red],
        [luma, -from_blue * blue / green, -from_red * red / green],
        [luma, from_blue, 0.0],
    ]
    return [0.0 if full_range else 16.0, 128.0, 128.0], rows


def _converted(colours: Tensor, source: str, result: str) -> Tensor:
    """Red, green and blue, or gray, as the result has them."""
    if result == "gray":
        if colours.shape[1] == 1:
            return colours
        weights = colours.new_tensor([0.299, 0.587, 0.114])[:, None, None]
        return (colours * weights).sum(1, keepdim=True)
    colours = colours.expand(-1, 3, -1, -1)
    return colours.flip(1) if result == "bgr" else colours


def _paste(canvas: Tensor, part: Tensor, offset: tuple[int, int]) -> None:
    """Writes what of a part lies within the canvas, [N, C, OH, OW]."""
    top, left = offset
    first, start = max(-top, 0), max(-left, 0)
    top, left = max(top, 0), max(left, 0)
    part = part[:, :, first : first + canvas.shape[2] - top, start : start + canvas.shape[3] - left]
    canvas[:, :, top : top + part.shape[2], left : left + part.shape[3]] = part
