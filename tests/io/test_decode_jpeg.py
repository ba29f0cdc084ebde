"""Decoding of JPEG files: images are PIL's, batches hold them where boxes say, and bad files are named."""

import io
import threading

import numpy
import pytest
import torch
from samples.preprocess import MEAN, STD

import bridge
from bridge.errors import DecodeError, FlavourError, OpInputError
from bridge.io import batch, decode_jpeg, jpeg

pytest.importorskip("torchvision", reason="needs torchvision")
Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
SIZES = [(48, 64), (33, 77), (1, 1), (120, 16)]


def picture(height, width, seed=0, colour=255):
    """A smooth picture, as a camera gives them. colour: by how much a pixel's red, green and blue differ at most."""
    rng = numpy.random.default_rng(seed)
    least = rng.integers(0, 256 - colour, (3, 4, 1))
    small = (least + rng.integers(0, colour + 1, (3, 4, 3))).astype(numpy.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, **settings):
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 95, **settings})
    return file.getvalue()


def pils(file):
    return torch.from_numpy(numpy.array(Image.open(io.BytesIO(file)).convert("RGB"))).permute(2, 0, 1)


def files():
    return [encoded(picture(*size, seed)) for seed, size in enumerate(SIZES)]


def test_images_are_pils():
    given = files()
    for form in (bytes, bytearray, memoryview, lambda file: torch.frombuffer(bytearray(file), dtype=torch.uint8)):
        images = decode_jpeg([form(file) for file in given], "cpu")
        for image, file, size in zip(images, given, SIZES, strict=True):
            assert image.dtype == torch.uint8 and image.shape == (3, *size)
            assert (image.int() - pils(file).int()).abs().max() <= 2  # decoders may round otherwise
    assert decode_jpeg([], "cpu") == []


def test_gray_and_progressive_files():
    gray = encoded(picture(20, 30).convert("L"))
    image, progressive = decode_jpeg([gray, encoded(picture(20, 30), progressive=True)], "cpu")
    assert image.shape == progressive.shape == (3, 20, 30) and torch.equal(image[0], image[2])


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (b"", "file 1 is no JPEG file: it has 0 bytes, expected ff d8 ff"),
        (b"\x89PNG\r\n", "file 1 is no JPEG file: it has 6 bytes, which begins with 89 50 4e, expected"),
        (b"\xff\xd8\xff\xe0rubbish", "file 1, of 11 bytes, cannot be decoded: "),
        (torch.zeros(3, 4, dtype=torch.uint8), r"file 1 is a torch.uint8 tensor \[3, 4\] on cpu, expected uint8"),
        (torch.zeros(9), r"file 1 is a torch.float32 tensor \[9\] on cpu, expected uint8"),
    ],
)
def test_bad_files_are_named(bad, text):
    with pytest.raises(DecodeError, match=text):
        decode_jpeg([files()[0], bad], "cpu")


def test_a_file_that_ends_early_is_an_error_or_an_image():
    """libjpeg fills what is missing; whatever happens, the process lives."""
    for length in (3, 20, 300, 700):
        try:
            (image,) = decode_jpeg([files()[0][:length]], "cpu")
            assert image.shape == (3, 48, 64)
        except DecodeError as error:
            assert f"file 0, of {length} bytes" in str(error)


def test_without_a_gpu_or_a_decoder(monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(FlavourError, match="there is no CUDA GPU here to decode on; pass device='cpu'"):
            decode_jpeg(files())
    monkeypatch.setitem(__import__("sys").modules, "torchvision.io", None)
    with pytest.raises(FlavourError, match=r"pip install 'bridge-tensorrt\[decode\]'"):
        decode_jpeg(files(), "cpu")


def test_a_batch_holds_every_image_in_its_box():
    images = decode_jpeg(files(), "cpu")
    joined, boxes = batch(images)
    assert joined.shape == (4, 3, 120, 77) and boxes.dtype == torch.int64
    assert boxes.tolist() == [[0, 0, width, height] for height, width in SIZES]
    settings = {"layout": "nchw", "output_size": 20, "fit": "letterbox", "mean": MEAN, "std": STD}
    together = bridge.preprocess(joined, boxes=boxes, **settings)
    for row, image in enumerate(images):
        torch.testing.assert_close(together[row : row + 1], bridge.preprocess(image[None], **settings))
    assert batch(images, (200, 100))[0].shape == (4, 3, 200, 100)


@pytest.mark.parametrize(
    ("images", "size", "text"),
    [
        ([], None, "there is no image"),
        ([torch.zeros(3, 4, 5)], None, "image 0 is torch.float32 .*, expected torch.uint8"),
        ([torch.zeros(4, 5, 3, dtype=torch.uint8)], None, r"image 0 is torch.uint8 \[4, 5, 3\]"),
        ([torch.zeros(3, 4, 5, dtype=torch.uint8)], (3, 9), "image 0 has 4 x 5 pixels, more than the 3 x 9"),
    ],
)
def test_images_that_make_no_batch(images, size, text):
    with pytest.raises(OpInputError, match=f"batch: {text}"):
        batch(images, size)


def test_the_first_bad_file_is_found_among_good_ones():
    calls = []

    def decode(encoded):
        calls.append(len(encoded))
        if any(len(file) == 5 for file in encoded):
            raise RuntimeError("no frame\nat line 3")

    found = jpeg._culprit(decode, [torch.zeros(4), torch.zeros(5), torch.zeros(5)], RuntimeError("together"))
    assert "file 1, of 5 bytes, cannot be decoded: no frame" in str(found) and "line" not in str(found)
    assert calls == [1, 1]
    assert "the 1 files cannot be decoded together: together" in str(
        jpeg._culprit(decode, [torch.zeros(4)], RuntimeError("together"))
    )


@pytest.mark.gpu
def test_cuda_images_are_pils():
    """Within rounding where each pixel has its chroma; where four share it, PIL interpolates it, nvJPEG does not."""
    sizes = [*SIZES, (1080, 1920)]
    whole = [encoded(picture(*size, seed), subsampling=0) for seed, size in enumerate(sizes)]
    shared = [encoded(picture(*size, seed, colour=32), subsampling=2) for seed, size in enumerate(sizes)]
    given = [*whole, encoded(picture(50, 70).convert("L")), *shared]
    for place, (image, file) in enumerate(zip(decode_jpeg(given), given, strict=True)):
        assert image.is_cuda and image.dtype == torch.uint8
        difference = (image.cpu().int() - pils(file).int()).abs().float()
        if place <= len(whole):
            assert difference.max() <= 3
        else:
            assert difference.mean() < 2
    with pytest.raises(DecodeError, match="file 1, of 11 bytes"):
        decode_jpeg([given[0], b"\xff\xd8\xff\xe0rubbish"])


@pytest.mark.gpu
def test_cuda_decodes_in_the_order_of_the_current_stream():
    """Again and again into memory that other work has just read, from two threads."""
    given = [encoded(picture(400, 600, seed)) for seed in range(4)]
    expected = [image.cpu() for image in decode_jpeg(given)]
    failed = []

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(30):
                sums = [image.float().mul(2).cpu() for image in decode_jpeg(given)]
                if not all(torch.equal(a, b.float() * 2) for a, b in zip(sums, expected, strict=True)):
                    failed.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.gpu
def test_cuda_nothing_comes_back_to_the_host():
    given = [encoded(picture(*size)) for size in SIZES]
    decode_jpeg(given)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        images, boxes = batch(decode_jpeg(given))
        bridge.preprocess(images, boxes=boxes, layout="nchw", output_size=64, fit="letterbox")
        torch.cuda.synchronize()
    names = [event.key for event in trace.key_averages()]
    assert names and not [name for name in names if "Memcpy DtoH" in name], names
