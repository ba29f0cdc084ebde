"""preprocess of images whose rows go through a ring in shared memory, from compute capability 9.0 on; on a GPU."""

import pytest
import torch
from plugin_host import Plugin
from samples.preprocess import MEAN, STD, pixels

from bridge.core import libraries
from bridge.core.op import OPS
from bridge.testing import DTYPES, check_cuda
from bridge.testing.plugin_call import supposed_device

OP = OPS["preprocess"]
STREAM = 5
OF_PLUGIN = STREAM + 2  # TensorRT counts from 1, which is the op's own choice
SHAPES = [  # of images, and sizes of results
    ((3, 108, 192), (36, 64)),  # of a third of the sides: no sample lies between pixels
    ((40, 48, 64), (20, 30)),
    ((300, 9, 16), (5, 8)),  # several images of a block
    ((2, 50, 320), (31, 1300)),  # several blocks beside each other
    ((1, 54, 3840), (40, 640)),
    ((2, 333, 16), (1, 1)),
    ((5, 2, 16), (700, 33)),  # rows of results that share theirs
    ((2, 64, 48), (129, 127)),
]
SETTINGS = [
    {},
    {"fit": "letterbox", "fill": (114.0, 0.0, 3.5)},
    {"fit": "letterbox", "center": False, "channels_last": True},
    {"fit": "crop", "result": "bgr"},
    {"resize_size": (90, 71), "result": "bgr", "channels_last": True},
]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
def test_rows_of_a_ring_are_the_reference(shape, size, settings, dtype):
    with libraries.tactic("preprocess", STREAM):
        check_cuda(OP, dtype, pixels(*shape, 3), output_size=size, mean=MEAN, std=STD, **settings)


@pytest.mark.gpu
def test_levels_in_the_middle_are_rounded_to_even_ones():
    """Of shares that are quarters and halves, which floats have exactly."""
    with libraries.tactic("preprocess", STREAM):
        check_cuda(OP, torch.float32, pixels(2, 64, 128, 3), output_size=(128, 64), rounded=True)


@pytest.mark.gpu
@pytest.mark.parametrize("first", [16, 13])
def test_a_part_of_wider_images(first):
    """Rows that are further apart than they are wide, and that begin at 16 bytes or not."""
    x = pixels(3, 40, 96, 3).cuda()[:, 3:30, first : first + 48]
    expected = OP.run(x.cpu(), output_size=(19, 33))
    with libraries.tactic("preprocess", STREAM):
        torch.testing.assert_close(OP.overload(x, output_size=(19, 33)).cpu(), expected, rtol=1e-5, atol=1e-5)


def plugin_of(*shape: int) -> Plugin:
    """Of images whose shape alone matters."""
    images, result = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0], 3, 640, 640)
    plugin = Plugin(Plugin.create("preprocess", {"output_size": [640, 640], "tensors": "images"}))
    assert plugin.configure([images], [result]) == 0
    return plugin


@pytest.mark.parametrize(("images", "streamed"), [(64, True), (16, True), (1, False)])
def test_many_images_are_streamed(images, streamed):
    with supposed_device(OP, 90, 132):
        plugin = plugin_of(images, 1080, 1920, 3)
        assert (plugin.own_tactic() == OF_PLUGIN) == streamed and OF_PLUGIN in plugin.tactics()
        assert OF_PLUGIN not in plugin_of(images, 1080, 1921, 3).tactics()
    with supposed_device(OP, 86, 84):
        assert OF_PLUGIN not in plugin_of(images, 1080, 1920, 3).tactics()
