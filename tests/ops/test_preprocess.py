"""preprocess: torchvision's and PIL's results, where images stand in a result, and what is refused."""

import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from refusals import check_refused
from samples.preprocess import MEAN, STD, pixels, random_call, samples

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import DTYPES, check_cuda

OP = OPS["preprocess"]
TACTICS = [-1, 1, 2, 3, 4, 5]
SIZES = [((23, 37), (16, 20)), ((23, 37), (41, 51)), ((64, 48), (16, 12)), ((50, 31), (7, 90)), ((9, 11), (9, 11))]


def v2():
    return pytest.importorskip("torchvision.transforms.v2", reason="needs torchvision")


def levels(x, **settings):
    """The resized levels of images [N, H, W, C], as [N, C, OH, OW]."""
    return bridge.preprocess(x, scale=1.0, **settings)


def test_is_the_usual_chain():
    x = pixels(2, 23, 37, 3)
    for size in ((16, 20), (41, 51)):
        y = F.interpolate(x.permute(0, 3, 1, 2).float().div(255), size, mode="bilinear", align_corners=False)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        ours = bridge.preprocess(x, output_size=size, mean=MEAN, std=STD)
        torch.testing.assert_close(ours, (y - mean) / std, rtol=1e-5, atol=1e-5)


def assert_within_a_level(ours, expected, mode):
    difference = (ours - expected).abs()
    assert difference.max() <= (0 if mode.startswith("nearest") else 1)
    assert difference.mean() < 0.55  # noise halved by means of four pixels ends in halves everywhere
    assert torch.equal(ours, ours.round().clamp(0, 255))


def away_from_the_ends(x):
    """Levels so far from 0 and 255 that no filter goes beyond: PIL and torchvision clamp between their two passes."""
    return (x // 2 + 64).to(torch.uint8)


@pytest.mark.parametrize(("given", "size"), SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", "nearest-exact"])
@pytest.mark.parametrize("antialias", [True, False])
def test_is_torchvisions_within_one_level(mode, antialias, given, size):
    """torchvision on a CPU rounds to whole levels between its two passes."""
    x = away_from_the_ends(pixels(2, *given, 3))
    modes = v2().InterpolationMode
    interpolation = modes.NEAREST_EXACT if mode == "nearest-exact" else modes(mode)
    expected = v2().functional.resize(x.permute(0, 3, 1, 2), list(size), interpolation, antialias=antialias)
    ours = levels(x, output_size=size, mode=mode, antialias=antialias, rounded=True)
    assert_within_a_level(ours, expected, mode)


@pytest.mark.parametrize(("given", "size"), SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest-exact"])
def test_is_pils_within_one_level(mode, given, size):
    """PIL rounds to whole levels between its two passes, too."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    x = away_from_the_ends(pixels(1, *given, 3, seed=3))
    box = torch.tensor([[1, 2, 10, 9]])  # of odd sides: no sample lies at the border of two pixels
    filters = {"nearest-exact": "NEAREST"}
    resampling = getattr(image.Resampling, filters.get(mode, mode.upper()))
    pil = image.fromarray(x[0].numpy()).crop(box[0].tolist()).resize(size[::-1], resampling)
    ours = levels(x, boxes=box, output_size=size, mode=mode, antialias=True, rounded=True)[0]
    assert_within_a_level(ours.permute(1, 2, 0), torch.from_numpy(numpy.array(pil)), mode)


def test_one_row_and_one_column_are_right():
    """interpolate itself is wrong on a CPU where a width becomes 1: each channel by itself, as a row, is not."""
    x = pixels(1, 36, 14, 3)
    for mode in ("bilinear", "bicubic"):
        ours = levels(x, output_size=(3, 1), mode=mode, antialias=True)
        turned = levels(x.transpose(1, 2).contiguous(), output_size=(1, 3), mode=mode, antialias=True)
        torch.testing.assert_close(ours, turned.transpose(2, 3))
        rows = F.interpolate(x.permute(0, 3, 2, 1).float(), (1, 3), mode=mode, antialias=True)
        torch.testing.assert_close(ours, rows.transpose(2, 3), rtol=1e-4, atol=1e-2)


def test_shorter_side_and_centre_are_torchvisions():
    transform = v2().Compose([v2().Resize(25), v2().CenterCrop((22, 19))])
    for seed in range(30):
        x = pixels(1, 20 + seed, 53 - seed, 3, seed=seed)
        ours = levels(x, output_size=(22, 19), resize_size=25, fit="crop", antialias=True)
        expected = transform(x.permute(0, 3, 1, 2).float())
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


def test_an_image_of_one_colour_stands_where_the_letterbox_says():
    x = torch.full((1, 30, 60, 3), 200, dtype=torch.uint8)
    for out, rows, columns in (
        ((40, 40), (10, 30), (0, 40)),
        ((20, 61), (0, 20), (10, 50)),
        ((41, 40), (10, 30), (0, 40)),
    ):
        y = levels(x, output_size=out, fit="letterbox", fill=(114.0, 0.0, 7.0))[0]
        expected = torch.tensor([114.0, 0.0, 7.0])[:, None, None].repeat(1, *out)
        expected[:, rows[0] : rows[1], columns[0] : columns[1]] = 200
        torch.testing.assert_close(y, expected)
        corner = levels(x, output_size=out, fit="letterbox", center=False)[0]
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        assert (corner[:, :height, :width] == 200).all() and corner.sum() == 3 * 200 * height * width


def test_an_image_in_a_padded_batch_is_as_by_itself():
    x, sizes = pixels(4, 31, 45, 3), [(31, 45), (7, 45), (30, 2), (1, 1)]
    boxes = torch.tensor([[0, 0, width, height] for height, width in sizes])
    for fit in ("stretch", "letterbox", "crop"):
        settings = {"output_size": (14, 17), "fit": fit, "mean": MEAN, "std": STD, "antialias": True}
        y = bridge.preprocess(x, boxes=boxes, **settings)
        for row, (height, width) in enumerate(sizes):
            alone = bridge.preprocess(x[row : row + 1, :height, :width], **settings)
            torch.testing.assert_close(y[row : row + 1], alone)


# (Y, Cb, Cr) and (R, G, B), of limited range: colour bars of BT.601 and BT.709 (100 %), rounded to whole numbers.
BARS = {
    "bt601": [((81, 90, 240), (255, 0, 0)), ((145, 54, 34), (0, 255, 0)), ((41, 240, 110), (0, 0, 255))],
    "bt709": [((63, 102, 240), (255, 0, 0)), ((173, 42, 26), (0, 255, 0)), ((32, 240, 118), (0, 0, 255))],
}


@pytest.mark.parametrize("matrix", BARS)
def test_colour_bars_of_nv12(matrix):
    for (y, cb, cr), rgb in (*BARS[matrix], ((16, 128, 128), (0, 0, 0)), ((235, 128, 128), (255, 255, 255))):
        luma = torch.full((1, 4, 6), y, dtype=torch.uint8)
        chroma = torch.tensor([cb, cr], dtype=torch.uint8).expand(1, 2, 3, 2)
        out = levels(luma, chroma=chroma, source="nv12", matrix=matrix, output_size=(3, 5))
        assert (out - torch.tensor(rgb)[:, None, None]).abs().max() <= 2, (matrix, rgb)
    gray = levels(luma, chroma=torch.full((1, 2, 3, 2), 128, dtype=torch.uint8), source="nv12", full_range=True)
    torch.testing.assert_close(gray, torch.full_like(gray, 235.0))


def test_chroma_lies_in_the_middle_of_its_four_pixels():
    """A picture whose chroma has been halved by means of two by two pixels comes back where it was."""
    ramp = torch.arange(0, 240, 10, dtype=torch.float32)
    chroma = ramp.view(1, 12, 2).mean(2, keepdim=True)[..., None].expand(1, 12, 4, 2)
    luma = torch.full((1, 24, 8), 128, dtype=torch.uint8)
    out = levels(
        luma, chroma=chroma.to(torch.uint8), source="nv12", full_range=True, output_size=(24, 8), matrix="bt601"
    )
    red = (out[0, 0] - 128) / 1.402 + 128  # Cr again
    torch.testing.assert_close(red[10:14, 0], ramp[10:14], rtol=0, atol=0.51)


def test_colours():
    x = pixels(1, 5, 4, 3)
    same = {"output_size": (5, 4), "mode": "nearest"}
    rgb = levels(x, **same)
    assert torch.equal(rgb, x.permute(0, 3, 1, 2).float())
    assert torch.equal(levels(x, source="bgr", **same), rgb.flip(1))
    assert torch.equal(levels(x, source="bgr", result="bgr", **same), rgb)
    gray = levels(x, source="bgr", result="gray", **same)
    torch.testing.assert_close(gray[:, 0], (rgb.flip(1) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1))
    one = levels(gray.byte().permute(0, 2, 3, 1), source="gray", **same)
    assert one.shape == (1, 3, 5, 4) and torch.equal(one[:, 1:2], gray.byte().float())


BAD = [
    ({"images": pixels(2, 9, 8)}, r"images has shape .*2, 9, 8.*, expected 4 dimensions"),
    ({"images": pixels(2, 3, 9, 8)}, "images has 8 channels in nhwc, expected 3"),
    ({"images": pixels(2, 0, 9, 3)}, "images of 0 x 9 have no pixel"),
    ({"images": pixels(2, 9, 9, 3), "chroma": pixels(2, 4, 4, 2)}, "chroma is given, which rgb images have not"),
    ({"images": pixels(2, 8, 8), "source": "nv12"}, "chroma is absent"),
    ({"images": pixels(2, 9, 8), "source": "nv12", "chroma": pixels(2, 4, 4, 2)}, ".*an even height and width of nv12"),
    ({"images": pixels(2, 8, 8), "source": "nv12", "chroma": pixels(2, 4, 5, 2)}, "chroma has shape .*2, 4, 5, 2"),
    ({"boxes": torch.zeros(3, 4, dtype=torch.int64)}, "boxes has shape .*3, 4.*, expected .2, 4."),
    ({"output_size": (0, 5)}, "output_size is 0 x 5, expected 1 to 32768"),
    ({"resize_size": (5, -1)}, "resize_size is 5 x -1, expected 1 to 32768"),
    ({"mean": (1.0, 2.0)}, "mean has 2 values, expected 1 or 3"),
    ({"std": (1.0, 0.0, 1.0)}, "std .*0.*, expected finite numbers other than 0"),
    ({"fill": (math.inf,)}, "fill .*inf.*, expected finite numbers"),
    ({"scale": math.nan}, "scale is nan, expected a finite number"),
    ({"source": "yuyv"}, 'source is "yuyv", expected one of rgb, bgr, rgba, bgra, gray, nv12'),
    ({"mode": "lanczos"}, 'mode is "lanczos", expected one of nearest, nearest-exact, bilinear, bicubic'),
    ({"dtype": "int8"}, 'dtype is "int8", expected one of float32, float16, bfloat16'),
]


def arguments_with(**changes):
    return {"images": pixels(2, 9, 12, 3), "output_size": (4, 5), **changes}


@pytest.mark.parametrize(("changes", "text"), BAD)
def test_bad_input_is_refused_in_both_languages(changes, text):
    check_refused(OP, f"preprocess: {text}", arguments_with(**changes))


def test_images_that_are_no_bytes_and_boxes_that_are_none():
    with pytest.raises(OpInputError, match=r"images is torch.float32, expected torch.uint8 or torch.int8"):
        bridge.preprocess(pixels(1, 4, 4, 3).float())
    for box in ([0, 0, 13, 9], [3, 0, 3, 9], [-1, 0, 3, 9], [0, 5, 3, 4]):
        with pytest.raises(OpInputError, match=r"row 1 of boxes is .*, expected a part of 12 x 9 pixels"):
            bridge.preprocess(pixels(2, 9, 12, 3), boxes=torch.tensor([[0, 0, 12, 9], box]))
    with pytest.raises(OpInputError, match=r"row 0 of boxes is .*, expected even numbers of nv12"):
        bridge.preprocess(
            pixels(1, 8, 12), pixels(1, 4, 6, 2), torch.tensor([[1, 0, 12, 8]]), source="nv12", output_size=4
        )


def test_dtypes_of_results():
    x, plugins = pixels(2, 9, 12, 3), OP.library.plugins()
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        assert bridge.preprocess(x, output_size=4, dtype=name).dtype == dtype
        assert plugins.infer_dtypes("preprocess", ["int8", None, None], {"dtype": name}) == [name]
    assert bridge.preprocess(x, output_size=4, dtype="float64").dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.parametrize("number", TACTICS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_is_the_reference(dtype, number):
    with libraries.tactic("preprocess", number):
        for _, args, kwargs in samples():
            check_cuda(OP, dtype, *args, **kwargs)
        for seed in range(30):
            args, kwargs = random_call(seed)
            check_cuda(OP, dtype, *args, **kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize("number", TACTICS)
def test_cuda_large_images(number):
    """Those of a camera, and rows that no word ends."""
    for height, width, size in ((1080, 1920, (640, 640)), (333, 1001, (224, 223)), (720, 1279, (97, 1300))):
        x = pixels(2, height, width, 3)
        for settings in ({}, {"antialias": True}, {"channels_last": True, "mode": "bicubic"}):
            with libraries.tactic("preprocess", number):
                check_cuda(OP, torch.float16, x, output_size=size, mean=MEAN, std=STD, **settings)


@pytest.mark.gpu
@pytest.mark.parametrize("number", TACTICS)
def test_cuda_boxes_that_are_none_give_nan_for_their_image_alone(number):
    x = pixels(6, 10, 12, 3)
    good, bad = [2, 1, 9, 8], [[0, 0, 13, 9], [3, 0, 3, 9], [-1, 0, 3, 9], [0, 5, 3, 4]]
    boxes = torch.tensor([good, *bad, good])
    with libraries.tactic("preprocess", number):
        y = bridge.preprocess(x.cuda(), boxes=boxes.cuda(), output_size=(7, 9), fit="letterbox").cpu()
    assert y[1:5].isnan().all()
    expected = bridge.preprocess(x[[0, 5]], boxes=boxes[[0, 5]], output_size=(7, 9), fit="letterbox")
    torch.testing.assert_close(y[[0, 5]], expected, rtol=1e-5, atol=1e-5)
