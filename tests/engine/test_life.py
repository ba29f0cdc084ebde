"""The life of bridge's ops beyond an engine: files that fresh processes load, AOTInductor packages, training."""

import copy
import os
import shutil
import subprocess
import sys

import fresh_process
import pytest
import torch
from compile_models import Attention, Convolutional, Deformable
from life_models import Every
from samples import FIXED
from torch.utils import _pytree as pytree

MODELS = [Convolutional, Attention, Deformable]
compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler, which torch's inductor calls"
)


def check(child):
    assert child.returncode == 0, child.stderr[-4000:]
    assert child.stdout.splitlines()[-1] == "equal", child.stdout


def export(device="cpu"):
    args, dynamic_shapes = Every.example(device=device)
    with torch.no_grad():
        return torch.export.export(Every.make(device), args, dynamic_shapes=dynamic_shapes)


def test_the_model_uses_every_op():
    used = {str(node.target) for node in export().graph.nodes if str(node.target).startswith("bridge.")}
    assert used == {f"bridge.{name}.default" for name in FIXED}


# Files

LOAD_PROGRAM = """
import sys, torch, bridge
program = torch.export.load(sys.argv[1])
assert "life_models" not in sys.modules
from life_models import Every
for batch in (1, 5):
    args, _ = Every.example(batch)
    torch.testing.assert_close(program.module()(*args), Every.make()(*args))
print("equal")
"""

LOAD_PROGRAM_WITHOUT_BRIDGE = """
import sys, torch
torch.export.load(sys.argv[1])
"""


@pytest.fixture(scope="module")
def program_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("life") / "every.pt2"
    torch.export.save(export(), path)
    return path


def test_an_exported_program_loads_where_bridge_is_imported_and_runs_at_other_sizes(program_file):
    check(fresh_process.run(LOAD_PROGRAM, program_file, imported=fresh_process.COMPILER))


def test_an_exported_program_without_bridge_says_what_is_missing(program_file):
    child = fresh_process.run(LOAD_PROGRAM_WITHOUT_BRIDGE, program_file, imported=fresh_process.COMPILER)
    assert child.returncode == 1
    assert "failed to resolve torch.ops.bridge." in child.stderr
    assert "Please import the custom op to register it before deserializing" in child.stderr


LOAD_MODEL = """
import sys, torch
model = torch.load(sys.argv[1], weights_only=False)
from life_models import Every
args, _ = Every.example(3)
torch.testing.assert_close(model(*args), Every.make()(*args), rtol=0, atol=0)
print("equal")
"""


def test_a_pickled_model_loads_in_a_fresh_process(tmp_path):
    torch.save(Every.make(), tmp_path / "model.pt")
    check(fresh_process.run(LOAD_MODEL, tmp_path / "model.pt"))


def test_copies_and_state_dicts(tmp_path):
    model, (args, _) = Every.make(), Every.example(3)
    expected = model(*args)
    twin = copy.deepcopy(model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(*args), expected, rtol=0, atol=0)
    model.load_state_dict(torch.load(tmp_path / "weights.pt"))
    torch.testing.assert_close(model(*args), expected, rtol=0, atol=0)


# AOTInductor

LOAD_PACKAGE = """
import sys, torch, bridge
_, path, device = sys.argv
torch.backends.cudnn.allow_tf32 = False
run = torch._inductor.aoti_load_package(path)
assert "life_models" not in sys.modules
from life_models import Every
for batch in (1, 5):
    args, _ = Every.example(batch, device)
    with torch.no_grad():
        torch.testing.assert_close(run(*args), Every.make(device)(*args), rtol=1e-3, atol=1e-4)
print("equal")
"""

LOAD_PACKAGE_WITHOUT_BRIDGE = """
import sys, torch
torch._inductor.aoti_load_package(sys.argv[1])
"""


def package(tmp_path_factory, device):
    path = tmp_path_factory.mktemp("life") / "every.pt2"
    with torch.no_grad():
        return torch._inductor.aoti_compile_and_package(
            export(device),
            package_path=str(path),
            # A third of the compiler's time; a header that is precompiled for one file takes longer than it saves.
            inductor_configs={
                "aot_inductor.compile_wrapper_opt_level": "O0",
                "aot_inductor.precompile_headers": False,
            },
        )


@pytest.fixture(scope="module")
def cpu_package(tmp_path_factory):
    return package(tmp_path_factory, "cpu")


@compiler
def test_an_aotinductor_package_runs_at_other_sizes(cpu_package):
    check(fresh_process.run(LOAD_PACKAGE, cpu_package, "cpu", imported=fresh_process.COMPILER))


@compiler
def test_an_aotinductor_package_without_bridge_says_what_is_missing(cpu_package):
    child = fresh_process.run(LOAD_PACKAGE_WITHOUT_BRIDGE, cpu_package, imported=fresh_process.COMPILER)
    assert child.returncode == 1
    assert "Could not find schema for bridge::" in child.stderr


@compiler
@pytest.mark.gpu
def test_an_aotinductor_package_runs_on_a_gpu(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # torch 2.11's loader may end with SIGSEGV in std::regex for any CUDA package, also that of one nn.Linear (seen with
    # g++ 13.3); not when the process has one libstdc++ for all from the start.
    compiler_command = [os.environ.get("CXX", "g++"), "-print-file-name=libstdc++.so.6"]
    library = subprocess.run(compiler_command, capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-c", LOAD_PACKAGE, package(tmp_path_factory, "cuda"), "cuda"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LD_PRELOAD": library}
    check(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240))


# Training


def train(model, args, run):
    """Losses of three steps of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        outputs = pytree.tree_leaves(run(*args))
        loss = sum(output.square().mean() for output in outputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def check_training(model, device):
    torch.manual_seed(0)
    eager = model().train().to(device)
    twin = copy.deepcopy(eager)
    args = [value.to(device) for value in model.example(torch.float32)[0]]
    args[0].requires_grad_()
    torch.compiler.reset()
    losses = train(twin, args, torch.compile(twin, backend="inductor", fullgraph=True))
    gradient, args[0].grad = args[0].grad, None
    torch.testing.assert_close(losses, train(eager, args, eager), rtol=1e-3, atol=1e-5)
    assert losses[2] < losses[0]
    torch.testing.assert_close(gradient, args[0].grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(twin.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-5)


@compiler
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_training_steps_with_inductor(model):
    check_training(model, "cpu")


@compiler
@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_training_steps_with_inductor_on_a_gpu(model, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check_training(model, "cuda")
