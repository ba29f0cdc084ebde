"""Calls for which torch_tensorrt's converters give wrong numbers, in its own compile."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from door_models import needs_torch_tensorrt
from layer_interpreter import interpret
from torch import nn

from bridge.doors import torch_tensorrt_door as door
from bridge.tensorrt.guest import adaptive_pooling, cross_compilation
from bridge.tensorrt.install import flavour

pytestmark = needs_torch_tensorrt
INDEX = torch.tensor([0, 2, 0, 0, 3, 3])


class Uneven(nn.Module):
    """Windows that overlap, that differ, that repeat elements, and even ones."""

    def forward(self, x):
        maps = [F.adaptive_avg_pool2d(x, size) for size in ((7, 7), (3, 5), (12, 13), (13, 20), (5, 6), (1, 4))]
        volumes = [F.adaptive_avg_pool3d(x, size) for size in ((2, 3, 7), (1, 5, 4))]
        return *maps, *volumes, F.adaptive_avg_pool2d(x.half() * 1e4, (3, 7)), F.adaptive_avg_pool1d(x[:, 0], 7)


class Reduced(nn.Module):
    def forward(self, x):
        index = INDEX.to(x.device)[:, None].expand(6, 5)
        return x.scatter_reduce(0, index, x, "mean"), x.scatter_reduce(0, index, x, "amax", include_self=False)


class Added(nn.Module):
    def forward(self, x):
        return (2 * x).index_add(0, INDEX.to(x.device), x)


class IntegerMaxima(nn.Module):
    def forward(self, x):
        rows = (2 * x).round().long()
        return rows.scatter_reduce(0, INDEX.to(x.device)[:, None].expand(6, 5), rows, "amax")


class Resized(nn.Module):
    def forward(self, x):
        return F.interpolate(2 * x[None, None], scale_factor=1.7, mode="bilinear")


class Thresholded(nn.Module):
    def forward(self, x):
        return F.softplus(2 * x, threshold=2)


class Transposed(nn.Module):
    def forward(self, x):
        window = torch.ones(1, 1, 3, 3, device=x.device)
        return F.conv_transpose2d(2 * x[None, None], window, stride=2, output_padding=1)


class PooledToHeight(nn.Module):
    def forward(self, x):
        return F.adaptive_avg_pool2d(2 * x[None, None], (3, 5))


def compiled_by(torch_tensorrt, model, x, dynamic_shapes=None, inputs=None):
    """What torch_tensorrt makes of a model, for the GPU or without one, and the interpreters of its networks."""
    networks = []

    def build(interpreter, *args):
        networks.append(interpreter)
        return original(interpreter, *args)

    original = cross_compilation.build
    program = torch.export.export(model.eval(), (x,), dynamic_shapes=dynamic_shapes)
    target = None if torch.cuda.is_available() else "sm86"
    with mock.patch.object(cross_compilation, "build", build), door.cross_compile(target):
        compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=inputs or [x], min_block_size=1)
    return compiled, networks


def evaluated(networks, x):
    """The results of the only network for an input, on the CPU."""
    (found,) = networks
    return interpret(flavour.detect().trt(), found.ctx.net, {found._input_names[0]: x}, {})


def test_uneven_windows_of_any_batch(torch_tensorrt):
    model, x = Uneven(), torch.randn(2, 3, 10, 12)
    shapes = {0: torch.export.Dim("batch", min=1, max=8)}
    inputs = [torch_tensorrt.Input(min_shape=(1, 3, 10, 12), opt_shape=x.shape, max_shape=(8, 3, 10, 12))]
    compiled, networks = compiled_by(torch_tensorrt, model, x, (shapes,), inputs)
    assert [name for name, _ in compiled.named_children()] == ["_run_on_acc_0"]
    for batch in (1, 2, 8) if networks else ():
        x = torch.randn(batch, 3, 10, 12)
        torch.testing.assert_close(list(evaluated(networks, x)), list(model(x)))


def test_reductions_at_equal_indices(torch_tensorrt):
    model, x = Reduced(), torch.randn(6, 5)
    _, networks = compiled_by(torch_tensorrt, model, x)
    if networks:
        torch.testing.assert_close(list(evaluated(networks, x)), list(model(x)))


@pytest.mark.parametrize("model", [Added, IntegerMaxima, Resized, Thresholded, Transposed, PooledToHeight])
def test_others_run_in_pytorch(torch_tensorrt, model):
    height = torch.export.Dim("height", min=4, max=20) if model is PooledToHeight else None
    inputs = [torch_tensorrt.Input(min_shape=(4, 5), opt_shape=(6, 5), max_shape=(20, 5))] if height else None
    compiled, _ = compiled_by(torch_tensorrt, model(), torch.randn(6, 5), ({0: height},) if height else None, inputs)
    parts = [name for name, _ in compiled.named_children()]
    assert "_run_on_acc_0" in parts and "_run_on_gpu_1" in parts
    targets = {str(node.target) for node in compiled.get_submodule("_run_on_gpu_1").graph.nodes}
    assert any(
        name in target
        for target in targets
        for name in ("index_put", "scatter_reduce", "upsample", "softplus", "convolution", "adaptive_avg_pool")
    )


def test_unregister_gives_the_converters_back(torch_tensorrt):
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS as table

    def ours():
        entries = [entry for target in adaptive_pooling.TARGETS for entry in table[target]]
        return sum(entry.converter_implementation is adaptive_pooling.convert for entry in entries)

    assert ours() == len(adaptive_pooling.TARGETS)
    door.unregister()
    try:
        assert ours() == 0
    finally:
        door.register()
    assert ours() == len(adaptive_pooling.TARGETS)


@pytest.mark.gpu(engines=True)
@pytest.mark.parametrize("model", [Uneven, Reduced, Added, IntegerMaxima, Resized, Thresholded, Transposed])
def test_engines_are_eager(torch_tensorrt, model, device):
    model, x = model().eval(), torch.randn((2, 3, 10, 12) if model is Uneven else (6, 5), device=device)
    compiled, _ = compiled_by(torch_tensorrt, model, x)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
