"""ps_roi_align: torchvision's results, and channels that do not fit its bins."""

import pytest
import torch
from samples.detection.ps_roi_align import random_call
from test_roi_align import BAD
from test_roi_pool import check_bad_input, torchvisions

import bridge


def test_is_torchvision():
    for seed in range(40):
        (x, rois), kwargs = random_call(seed)
        expected = torchvisions().ps_roi_align(x, rois, **kwargs)
        torch.testing.assert_close(bridge.ps_roi_align(x, rois, **kwargs), expected, rtol=1e-4, atol=1e-5)


def test_bad_input():
    channels = {"x": torch.zeros(2, 6, 6, 7)}, "x has 6 channels, expected a multiple of the 2 x 2 bins"
    check_bad_input("ps_roi_align", [*BAD, ("channels", *channels)])


@pytest.mark.parametrize("ratio", [-1, 2])
def test_means_without_samples_are_torchvisions(ratio):
    """Of a point, a line, and regions reversed along one axis and along both."""
    x = torch.randn(1, 4, 9, 9)
    rois = torch.tensor([[0.0, 4, 4, 4, 4], [0, 1, 4, 7, 4], [0, 6, 2, 3, 7], [0, 6, 7, 3, 2]])
    expected = torchvisions().ps_roi_align(x, rois, 2, 1.0, ratio)
    assert expected.isnan().any() == (ratio == -1)
    torch.testing.assert_close(bridge.ps_roi_align(x, rois, 2, 1.0, ratio), expected, equal_nan=True)
