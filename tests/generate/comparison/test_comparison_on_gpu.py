"""New plugins are compared with PyTorch on a GPU: right ones pass, and those of a damaged op struct do not."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import bridge
from bridge.core.op import OPS
from bridge.doors.comparison import marks
from bridge.errors import BuildError
from bridge.generate import build
from bridge.testing import DTYPES

pytestmark = pytest.mark.gpu(engines=True)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    """Nothing was built or compared."""
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(tmp_path / "cache"))


def define(name, body):
    """An operator in plain torch, as users define them."""
    op = torch.library.custom_op(f"comparison_gpu::{name}", body, mutates_args=())
    op.register_fake(body)
    return op


def softened(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype).softmax(-1) * weight


def gathered(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return table[(index * 7 + 3) % table.shape[0]].tanh()


def probabilities(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy(x, x.square(), reduction="none")


def far_indices(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return table[(x * 100).long()]


SOFTENED, GATHERED = define("softened", softened), define("gathered", gathered)
PROBABILITIES, FAR = define("probabilities", probabilities), define("far_indices", far_indices)


class Calls(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op

    def forward(self, *tensors):
        return self.op(*tensors)


def compiled(op, inputs, sizes, **settings):
    return bridge.compile(Calls(op).eval(), inputs, dynamic_shapes=(sizes,), cache=False, **settings)


def rows(most=4096):
    return {0: Dim("rows", min=1, max=most)}


def found(engine):
    """What was kept of the comparison of an engine's one plugin on this GPU."""
    (name,) = engine.plugin_counts()
    folder = OPS[name].library.directories()[0]
    return marks.found(folder, OPS[name].local_name, torch.cuda.get_device_name())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_right_plugins_pass_and_are_marked(dtype):
    x, weight = torch.randn(8, 333).to("cuda", dtype), torch.randn(333).to("cuda", dtype)
    row = found(compiled(SOFTENED, (x, weight), (rows(), None)))
    assert len(row["shapes"]) >= 5 and row["reason"] == "" and 0 <= row["error"] < 1e-2
    assert f"x {str(dtype)[6:]} [1, 333], weight {str(dtype)[6:]} [333]" in row["shapes"]
    assert f"x {str(dtype)[6:]} [4096, 333], weight {str(dtype)[6:]} [333]" in row["shapes"]


def test_indices_probabilities_and_functions_that_cannot_be_tried():
    table, index = torch.randn(50, 24).cuda(), torch.zeros(9, dtype=torch.int64).cuda()
    assert len(found(compiled(GATHERED, (table, index), (None, rows())))["shapes"]) >= 4
    assert len(found(compiled(PROBABILITIES, (torch.rand(9, 5).cuda(),), (rows(),)))["shapes"]) >= 4
    astray = found(compiled(FAR, (torch.zeros(9).cuda(), table), (rows(), None)))
    assert astray["shapes"] == [] and astray["reason"].startswith("IndexError")
    assert torch.ones(2).cuda().sum().item() == 2  # the GPU still works


DAMAGES = {
    "odd rows are left out": ("switch (region(in)) {", "if (in[0][0] % 2) return;\nswitch (region(in)) {"),
    "the last row is left out": ('"xnumel", n0)', '"xnumel", n0 - 1)'),
    "another tensor is read": ("triton::address(in[1])", "triton::address(in[0])"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_op_struct_is_found(damage, monkeypatch):
    good, bad = DAMAGES[damage]

    def damaged(plan, write=build.op_source):
        text = write(plan)
        assert good in text, text
        return text.replace(good, bad)

    monkeypatch.setattr(build, "op_source", damaged)
    x, weight = torch.randn(8, 333).cuda(), torch.randn(333).cuda()
    with pytest.raises(BuildError) as caught:
        compiled(SOFTENED, (x, weight), (rows(), None))
    text = str(caught.value)
    assert "comparison_gpu::softened: its generated plugin gives a wrong result for x float32 [" in text
    assert all(part in text for part in (torch.cuda.get_device_name(), "check_generated=False", "self.op(*tensors)"))
    assert compiled(SOFTENED, (x, weight), (rows(), None), check_generated=False).plugin_counts().total() == 1
