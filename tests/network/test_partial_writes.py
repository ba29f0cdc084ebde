"""Writes to a part of a tensor with dynamic extents, and remainders of extents."""

from importlib.util import find_spec

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import bridge
from bridge.tensorrt.converters.extents import remainder
from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.install import flavour
from bridge.tensorrt.network import build

pytestmark = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


@pytest.mark.parametrize("b", [1, 3, 7, 64])
def test_remainders_are_pythons(b):
    """TensorRT itself works out what a tensor's extent is that follows from constants."""
    here, constants = flavour.detect(), []
    builder, network = build.create_network(here)
    layers = Layers(here.trt(), network, "remainder", constants)
    one = layers.constant([1.0])
    for a in range(-20, 21):
        rest = remainder(layers, a, layers.constant([b], "int64"))
        # One more, for an extent of 0 says little.
        shape = layers.expand(one, [layers.add(rest, layers.constant([1], "int64"))]).shape
        assert tuple(shape) == (a % b + 1,), (a, b)
    del builder


class Masked(nn.Module):
    """A mask of numbers, as attention in windows has it, and a padding to a whole number of windows."""

    def forward(self, x):
        mask = torch.zeros_like(x)
        mask[1:3] = 2.0
        mask[:, 4:] = 1
        return F.pad(x + mask, (0, (7 - x.shape[1]) % 7))


def compiled(**dims):
    shapes = {"x": {int(axis[1:]): dim for axis, dim in dims.items()}}
    return bridge.compile(Masked().eval(), (torch.randn(5, 9),), dynamic_shapes=shapes, target="sm86", cache=False)


class Written(nn.Module):
    """x [rows, columns] of any dtype, with numbers of another type written to parts of it and of a new tensor."""

    def forward(self, x):
        y = x.clone()
        y[1:3] = 2
        y[:, -3:] = True
        y[0, ::2] = 3.0
        mask = x.new_zeros(x.shape[1], dtype=torch.int64)
        mask[2:] = 7
        return y, mask


def test_an_engine_that_writes_numbers_to_parts_of_dynamic_extents():
    assert compiled(d0=Dim("rows", min=4, max=8)).outputs[0].shape == (-1, 14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize("dims", ["d0", "d1", "d0 d1"])
def test_numbers_are_written_to_a_part_of_dynamic_extents(dims, dtype):
    every = {0: Dim("rows", min=4, max=8), 1: Dim("columns", min=4, max=40)}
    model, shapes = Written().eval(), {axis: dim for axis, dim in every.items() if f"d{axis}" in dims}
    with oracle.interpreted():
        engine = oracle.ahead(model, ((torch.randn(5, 9) * 4).to(dtype),), ({**shapes},))
        for rows, columns in ((5, 9), (4, 4), (6, 40), (8, 13)):
            x = (torch.randn(rows if 0 in shapes else 5, columns if 1 in shapes else 9) * 4).to(dtype)
            oracle.assert_same(engine(x), model(x))


def test_a_padding_by_a_remainder_is_converted_by_bridge():
    engine = compiled(d1=Dim("columns", min=6, max=40))
    assert engine.outputs[0].shape == (5, -1)
    assert any("[MOD]" in layer["name"] for layer in engine.layers)


@pytest.mark.gpu(engines=True)
def test_every_extent_on_the_gpu_equals_eager(device):
    model, x = Masked().eval(), torch.randn(5, 9, device=device)
    shapes = {"x": {0: Dim("rows", min=4, max=8), 1: Dim("columns", min=6, max=40)}}
    engine = bridge.compile(model, (x,), dynamic_shapes=shapes)
    for rows, columns in ((4, 6), (5, 7), (8, 40), (6, 13), (7, 14)):
        x = torch.randn(rows, columns, device=device)
        torch.testing.assert_close(engine(x), model(x))
