"""What a new op takes: files of its own. Nothing generic names an op, and what stands in the op's files is found."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import samples

from bridge.core.library import LIBRARIES
from bridge.core.op import OPS
from bridge.passes import PASSES

ROOT = Path(__file__).parents[2]
NAMES = re.compile(rf"\b({'|'.join(OPS)})\b")
# Files for no op in particular that name one all the same.
EXAMPLES = {
    "bridge/bench/generated/formulas.py": {"group_norm"},  # torch's own, in a formula
    "bridge/bench/ceilings.py": {"relu"},  # torch's own: the launch of a small kernel is timed
    "bridge/bench/overhead.py": {"relu"},  # in the model that calls are timed with
    "bridge/cli/doctor.py": {"relu"},  # the op that is tried
    "bridge/doors/lowerings/tuner.py": {"rope"},  # in an error, how a setting is written
    "bridge/passes/flash_attention.py": {"window_attention"},  # what it computes
    "bridge/passes/full_attention.py": {"window_attention"},  # without a window
    "bridge/passes/head_layout.py": {"window_attention", "rope"},  # the ops that have layouts
    "bridge/passes/split_attention.py": {"window_attention"},  # of all pieces
    "bridge/tensorrt/network/convertible_graph.py": {"nms"},  # in an error, advice for detectors
    "csrc/kernels/deform_registers/tile.cuh": {"deform_conv2d_fused"},  # a header of deform_conv2d's fused kernels
}


def of_an_op(path: Path) -> bool:
    """Whether a file, or a folder that it is in, is called like an op, or begins so."""
    return any(re.match(rf"({'|'.join(OPS)})(?![a-z])", part) for part in path.parts)


def words_of_python(text: str) -> Iterator[str]:
    """Names, attributes, modules and texts; neither comments nor docstrings."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
            yield node.value
        for field in ("id", "attr", "name", "module"):
            yield str(getattr(node, field, ""))


def named(path: Path) -> set[str]:
    text = path.read_text()
    words = words_of_python(text) if path.suffix == ".py" else [re.sub(r"(//|#(?!\w)).*", "", text)]
    return {name for word in words for name in NAMES.findall(word)}


def generic_files() -> list[Path]:
    suffixes = {".py", ".cpp", ".cu", ".cuh", ".h", ".txt", ".cmake", ".map"}
    found = [path for top in ("bridge", "csrc") for path in (ROOT / top).rglob("*") if path.suffix in suffixes]
    found += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "tests" / "ops" / "samples" / "__init__.py"]
    return [path for path in found if not of_an_op(path.relative_to(ROOT))]


def test_nothing_generic_names_an_op():
    found = {str(path.relative_to(ROOT)): named(path) for path in generic_files()}
    assert {name: ops for name, ops in found.items() if ops} == EXAMPLES


def test_names_are_told_from_comments(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""rope"""\nfrom a import nms  # relu\n\n\ndef f():\n    """relu"""\n    return x.rope\n'
    )
    assert named(tmp_path / "a.py") == {"nms", "rope"}
    (tmp_path / "a.cpp").write_text('#include "ops/relu.h"\nint x;  // rope\n')
    assert named(tmp_path / "a.cpp") == {"relu"}
    assert of_an_op(Path("csrc/ops/x/ms_deform_attn_fused.cu")) and of_an_op(Path("passes/rope/sums.py"))
    assert not of_an_op(Path("csrc/ops/x/relus.cu"))


def test_an_op_without_samples_is_named(monkeypatch):
    monkeypatch.delitem(samples.MODULES, "relu")
    assert samples.lacking("relu") == ["samples", "random_call", "PAIR", "growing", "growing_shapes", "open_axes"]
    monkeypatch.delitem(samples.MODULES, "nms")
    assert samples.lacking("nms") == ["samples"] and samples.lacking("rope") == []


def test_tables_for_readers_have_every_op_and_pass():
    """Lists by nature: what they say of each is written for readers."""
    for page, names in (("ops.md", LIBRARIES["bridge"].ops), ("passes.md", [each.name for each in PASSES])):
        rows = re.findall(r"^\| `(?:bridge\.)?(\w+)", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        assert set(names) <= set(rows), page


# What the author of an op called "halve" writes beside its kernel.
FILES = {
    "bridge/ops/halve.py": '''
"""Half of a tensor."""
from torch import Tensor
from bridge.core.binding import bind
from bridge.core.op import op

@op
def halve(x: Tensor) -> Tensor:
    """x / 2."""
    return x / 2

bind("acme::half", "halve", arguments=lambda given: ([given["t"]], {}))
''',
    "bridge/passes/halve.py": '''
"""Products with a half, as bridge::halve."""
import torch
from bridge.core.op import OPS
from bridge.passes.common.definition import Pass
from bridge.passes.common.outcome import Outcome

def apply(graph, constants):
    outcomes = []
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor):
        node.target, node.args = OPS["halve"].overload, node.args[:1]
        outcomes.append(Outcome.at(node, "halve", True, "bridge.halve"))
    return outcomes

PASS = Pass("halve", apply, rank=2)
''',
    "bridge/tensorrt/native_lowerings/halve.py": "DEFAULTS = {}",
    "bridge/bench/workloads/halve.py": '''
"""Workloads and peers of halve."""
from bridge.bench.peer import Peer
from bridge.bench.workload import Workload

def workloads():
    yield Workload("halve", "one", "float32")

PEERS = (Peer("acme", "halve", lambda workload, settings: lambda args: args[0] / 2),)
''',
    "tests/ops/samples/halve.py": '''
"""Calls of halve."""
import torch

def samples():
    return [("one", [torch.ones(3)], {})]
''',
}
ASK = """
import sys
# Of the interpreter's own: an editable install has a finder that comes before PYTHONPATH.
sys.meta_path[:] = [finder for finder in sys.meta_path if "importlib" in getattr(finder, "__module__", "")]
import json, torch
import bridge, samples
from bridge.bench import peers, workloads
from bridge.core import foreign
from bridge.passes import PASSES, rewrite
from bridge.tensorrt import native_lowerings
from bridge.testing import samples_of

bridge.Config(passes=["halve"], lowering={"halve": "native"})
torch.library.define("acme::half", "(Tensor t) -> Tensor")
class Half(torch.nn.Module):
    def forward(self, x):
        return x * 0.5
program, (outcome,) = rewrite(torch.export.export(Half(), (torch.ones(2),)), ["halve"])
print(json.dumps({
    "op": bridge.halve(torch.ones(2)).tolist(),
    "foreign": foreign.targets()[torch.ops.acme.half.default].name,
    "bound": foreign.bind(torch.ops.acme.half.default, ("x",), {})[1],
    "passes": [each.name for each in PASSES if each.apply.__module__ == "bridge.passes.halve"],
    "rewritten": [program.module()(torch.full((2,), 4.0)).tolist(), outcome.what],
    "workloads": [each.name for each in workloads.select(["halve"])],
    "peers": [each.op for each in peers.select(["acme"])],
    "native": native_lowerings.find("halve") is not None,
    "sampled": [label for label, _, _ in samples_of("halve", "samples")],
    "samples": samples.SAMPLES["halve"]()[0][0],
    "lacking": samples.lacking("halve"),
}))
"""


def test_a_new_op_is_files_of_its_own(tmp_path):
    leave_out = shutil.ignore_patterns("lib", "__pycache__", "baselines")
    for part in ("bridge", "tests/ops/samples", "tests/support"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=leave_out)
    for name, text in FILES.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    paths = [tmp_path, tmp_path / "tests" / "ops", tmp_path / "tests" / "support"]
    without_kernels = {"BRIDGE_LIBRARY_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=os.environ | without_kernels, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "op": [0.5, 0.5],
        "foreign": "halve",
        "bound": ["x"],
        "passes": ["halve"],
        "rewritten": [[2.0, 2.0], "bridge.halve"],
        "workloads": ["one"],
        "peers": ["halve"],
        "native": True,
        "sampled": ["one"],
        "samples": "one",
        "lacking": ["random_call", "PAIR", "growing", "growing_shapes", "open_axes"],
    }
