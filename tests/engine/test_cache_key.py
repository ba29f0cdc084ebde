"""What the key of a cached engine covers."""

import os
import subprocess
import sys

import pytest
import torch
from compile_models import Attention, Convolutional, Deformable
from torch import nn
from torch.export import Dim

import bridge
from bridge.core.library import LIBRARIES
from bridge.engine.cache_key import build_environment, engine_key
from bridge.engine.code_key import NoKeyError
from bridge.tensorrt.install.flavour import detect


def environment():
    return build_environment(detect(), [LIBRARIES["bridge"]])


class Slope(nn.Module):
    def __init__(self, slope=0.1, limit=6.0):
        super().__init__()
        self.slope, self.limit = slope, limit
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x):
        return bridge.relu(x + self.shift, self.slope, self.limit)


def key(model, args, shapes=None, **parts):
    program = torch.export.export(model.eval(), args, dynamic_shapes=shapes, strict=False)
    return engine_key(program.graph, {**program.state_dict, **program.constants}, parts)


X = torch.zeros(2, 4)


def test_the_same_model_has_the_same_key():
    assert key(Slope(), (X,), a=[1, 2.0]) == key(Slope(), (X + 1,), a=[1, 2.0])


def shifted():
    model = Slope()
    model.shift[3] = 7.0
    return model


@pytest.mark.parametrize(
    "other",
    [
        lambda: key(Slope(0.2), (X,)),
        lambda: key(Slope(limit=float("inf")), (X,)),
        lambda: key(shifted(), (X,)),
        lambda: key(Slope().double(), (X.double(),)),
        lambda: key(Slope().half(), (X.half(),)),
        lambda: key(Slope(), (torch.zeros(3, 4),)),
        lambda: key(Slope(), (X,), {"x": {0: Dim("n", min=2, max=9)}}),
        lambda: key(Slope(), (X,), target="sm86"),
        lambda: key(nn.Sequential(Slope()), (X,)),
    ],
    ids=["slope", "infinity", "constant", "float64", "float16", "shape", "dynamic", "part", "module path"],
)
def test_another_engine_has_another_key(other):
    assert other() != key(Slope(), (X,))


def test_parts_differ_by_type_and_value():
    values = [1, 1.0, True, "1", None, [1], (1,), {"a": 1}, {"a": 2}, {"b": 1}, float("inf"), -0.0, 0.0, b"1", []]
    assert len({key(Slope(), (X,), part=value) for value in values}) == len(values)


def test_values_of_every_kind_of_constant_count():
    def of(tensor):
        return engine_key(torch.fx.Graph(), {"c": tensor}, {})

    base = torch.arange(12.0).reshape(3, 4)
    same = [base, base.clone(), base.t().contiguous().t(), torch.stack([base, base])[0]]
    assert len({of(tensor) for tensor in same}) == 1
    others = [base.to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)]
    others += [base.to(torch.float8_e4m3fn), base.reshape(4, 3), base.flatten(), torch.zeros(0), torch.tensor(1.0)]
    others += [torch.zeros(1).expand(3, 4), torch.zeros(1).expand(4, 3), torch.zeros(0, 3), base.to(torch.complex64)]
    assert len({of(tensor) for tensor in others + same}) == len(others) + 1


def test_a_large_tensor_is_read_in_pieces(monkeypatch):
    tensor = torch.randn(1000, 7)
    whole = engine_key(torch.fx.Graph(), {"c": tensor}, {})
    monkeypatch.setattr("bridge.engine.cache_key._CHUNK", 1000)
    assert engine_key(torch.fx.Graph(), {"c": tensor}, {}) == whole
    tensor[999, 6] += 1
    assert engine_key(torch.fx.Graph(), {"c": tensor}, {}) != whole


def test_what_has_no_stable_spelling_has_no_key():
    with pytest.raises(NoKeyError, match="object"):
        engine_key(torch.fx.Graph(), {}, {"a": object()})
    with torch._subclasses.FakeTensorMode():
        fake = torch.zeros(3)
    with pytest.raises(NoKeyError, match="constant c"):
        engine_key(torch.fx.Graph(), {"c": fake}, {})
    with pytest.raises(NoKeyError, match="constant c"):
        engine_key(torch.fx.Graph(), {"c": torch.eye(3).to_sparse()}, {})


CODE = """
import sys; sys.path.insert(0, {folder!r})
import torch
from test_cache_key import Attention, Convolutional, Deformable, environment, key
torch.manual_seed(0)
for model in (Convolutional, Attention, Deformable):
    args, shapes = model.example(torch.float32)
    print(key(model(), args, shapes, environment=environment()))
"""


def test_another_process_finds_the_same_key(request):
    torch.manual_seed(0)
    here = []
    for model in (Convolutional, Attention, Deformable):
        args, shapes = model.example(torch.float32)
        here.append(key(model(), args, shapes, environment=environment()))
    code = CODE.format(folder=str(request.path.parent))
    changed = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=changed)
    assert there.stdout.split() == here, there.stderr


def test_control_flow_is_covered():
    class Branch(nn.Module):
        def __init__(self, slope):
            super().__init__()
            self.slope = slope

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x * self.slope, lambda x: x + 1, (x,))

    def of(slope):
        program = torch.export.export(Branch(slope), (X,), strict=False)
        inner = {name: part for name, part in program.graph_module.named_modules() if name}
        return engine_key(program.graph, inner, {})

    assert of(2.0) == of(2.0) != of(3.0)


def test_the_environment_names_what_builds(monkeypatch, tmp_path):
    found = environment()
    assert found["flavour"] == detect().name and found["torch"] == torch.__version__
    assert list(found["plugins"]) == ["bridge"] and len(found["plugins"]["bridge"]) == 64
    (tmp_path / "libbridge_plugins.so").write_bytes(b"another library")
    monkeypatch.setenv("BRIDGE_LIBRARY_DIR", str(tmp_path))
    assert environment()["plugins"] != found["plugins"]


def test_only_the_libraries_that_a_graph_uses_are_named():
    assert build_environment(detect(), [])["plugins"] == {}
