"""Changes of other packages go through bridge.base.patches, which undoes them."""

import ast
import re
import types
from pathlib import Path

import pytest

from bridge.base import patches

ROOT = Path(__file__).parents[2]
FOREIGN = ("torch", "torch_tensorrt", "tensorrt", "tensorrt_rtx", "torchvision", "transformers", "trt")
# Files that change something else than an attribute of a module or class, and what.
OTHERS = {
    "bridge/bench/ceilings.py": "a setting of torch's, put back after the measurement",
    "bridge/tensorrt/network/op_converter.py": "torch_tensorrt's table of converters: own_conversion puts entries back",
    "bridge/tensorrt/guest/cpu_attention.py": "the same table: its ExitStack takes the entry out",
    "bridge/tensorrt/guest/wrong_converters.py": "the same table, and that of decompositions: the stack puts them back",
}


def root(node: ast.AST) -> str | None:
    """The name that a chain of attributes, elements and getattr() begins with."""
    while True:
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            node = node.args[0]
        else:
            return node.id if isinstance(node, ast.Name) else None


def foreign_names(tree: ast.AST) -> set[str]:
    """The names that stand for a foreign package or for a part of one: imported, or taken out of such a name."""
    names = {"trt"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(a.asname or a.name.split(".")[0]) for a in node.names if a.name.split(".")[0] in FOREIGN}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOREIGN:
            names |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Attribute, ast.Call)):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name) and root(node.value) in names}
    return names


def changes(source: str) -> list[int]:
    """The lines that set, delete or call setattr() on an attribute or element of something foreign."""
    tree = ast.parse(source)
    names, found = foreign_names(tree), []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else []
        targets = [node.target] if isinstance(node, (ast.AugAssign, ast.AnnAssign)) else targets
        targets = [each for t in targets for each in (t.elts if isinstance(t, ast.Tuple) else [t])]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
            found += [node.lineno] * (root(node.args[0]) in names)
        found += [node.lineno for t in targets if not isinstance(t, ast.Name) and root(t) in names]
    return found


def test_no_file_changes_another_package_by_itself():
    found = {path.relative_to(ROOT).as_posix(): changes(path.read_text()) for path in (ROOT / "bridge").rglob("*.py")}
    assert {path for path, lines in found.items() if lines} == set(OTHERS), found


def test_docs_tell_of_every_file_that_patches_another_package():
    text = (ROOT / "docs/architecture.md").read_text().partition("## Patches")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+\.py)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    patching = {
        path.relative_to(ROOT / "bridge").as_posix()
        for path in (ROOT / "bridge").rglob("*.py")
        if "from bridge.base.patches import" in path.read_text()
    }
    assert len(rows) == len(set(rows)) and set(rows) == patching


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.cuda.is_available = f",
        "import torch._decomp as d\ndel d.table",
        "def f():\n    from torch.export import _trace\n    setattr(_trace, 'print', None)",
        "def f(trt):\n    trt.ITensor.dtype = None",
        "from torch import fx\nx = getattr(fx, 'Node', None)\nx.name, y = 1, 2",
        "from torch_tensorrt.dynamo import table as t\nt[f] = []",
    ],
)
def test_a_change_is_found(source):
    assert len(changes(source)) == 1


def test_what_is_not_foreign_may_change():
    assert changes("import torch\nx = torch.zeros(3)\nx.y = 1\nself.torch = torch\nx[0] = torch.pi") == []


def test_what_is_replaced_comes_back_and_what_is_lacking_stays_so():
    owner = types.SimpleNamespace(name="before")
    with patches.replaced(owner, "name", str.upper):
        assert owner.name == "BEFORE"
    with patches.replaced(owner, "other", str.upper):
        assert not hasattr(owner, "other")
    assert owner == types.SimpleNamespace(name="before")
