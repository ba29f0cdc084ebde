"""ps_roi_pool: torchvision's results, and channels that do not fit its bins."""

import torch
from samples.detection.ps_roi_pool import random_call
from test_roi_align import BAD
from test_roi_pool import check_bad_input, torchvisions

import bridge


def test_is_torchvision():
    for seed in range(40):
        (x, rois), kwargs = random_call(seed)
        expected = torchvisions().ps_roi_pool(x, rois, **kwargs)
        torch.testing.assert_close(bridge.ps_roi_pool(x, rois, **kwargs), expected, rtol=1e-4, atol=1e-5)


def test_bad_input():
    channels = {"x": torch.zeros(2, 6, 6, 7)}, "x has 6 channels, expected a multiple of the 2 x 2 bins"
    check_bad_input("ps_roi_pool", [*BAD, ("channels", *channels)])


def test_the_last_row_and_column_of_a_map_are_in_no_region():
    x = torch.zeros(1, 1, 4, 5)
    x[..., 3, :], x[..., :, 4] = 100.0, 100.0
    rois = torch.tensor([[0.0, 0, 0, 5, 4], [0, 4, 0, 6, 2]])
    assert bridge.ps_roi_pool(x, rois, 1).flatten().tolist() == [0, 0]
