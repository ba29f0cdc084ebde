"""The order of the house: a file imports from its own wing and from lower ones alone, so no cycle is possible.

Folders, files and names stay such that a reader finds what he looks for.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FILES = 16
MOST_LINES = 300
# From the lowest to the highest; a name is a folder with all that no other name has, or a file. The package itself,
# `import bridge`, is what users see.
WINGS = (
    "errors",
    "base",
    "core",
    "toolchain",
    "ops",
    "io",
    "engine_file",
    "graph",
    "passes.common",
    "passes.rope",
    "passes.ms_deform_attn",
    "passes.window_attention",
    "passes.preprocess",
    "passes.block_sparse_attention",
    "passes.swin_attention",
    "passes",
    "config",
    "generate",
    "tensorrt",
    "tensorrt.install",
    "tensorrt.plugins",
    "tensorrt.converters",
    "tensorrt.decompositions",
    "tensorrt.native_lowerings",
    "tensorrt.network",
    "tensorrt.run",
    "tensorrt.guest",
    "export",
    "engine",
    "doors",
    "export.onnx",
    "",
    "testing",
    "bench",
    "zoo",
    "cli",
)


def modules(root: Path) -> dict[str, Path]:
    """The modules of a tree by their names below `bridge`."""
    paths = {path.relative_to(root / "bridge"): path for path in (root / "bridge").rglob("*.py")}
    return {".".join(short.with_suffix("").parts).removesuffix("__init__").rstrip("."): p for short, p in paths.items()}


def imports(path: Path, known: dict[str, Path]) -> list[tuple[int, str]]:
    """Line and name below `bridge` of every import of a file, those within functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((node.lineno, whole if whole.removeprefix("bridge.") in known else node.module))
    return [(line, name[7:]) for line, name in found if name == "bridge" or name.startswith("bridge.")]


def wing(module: str) -> int | None:
    """The place of a module's wing in the order: that of the longest name that begins the module's."""
    names = [name for name in WINGS if module == name or (name and module.startswith(f"{name}."))]
    return WINGS.index(max(names, key=len)) if names else None


def upward(root: Path) -> list[str]:
    """The imports that go up, and the modules that have no wing."""
    known = modules(root)
    wrong = [f"bridge.{name} is in no wing" for name in known if wing(name) is None]
    for name, path in known.items():
        for line, other in imports(path, known):
            if wing(name) is not None and (wing(other) is None or wing(other) > wing(name)):
                wrong.append(f"{path.relative_to(root)}:{line} imports bridge.{other}")
    return wrong


def test_every_import_goes_down():
    assert upward(ROOT) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("base/files.py", "import bridge.doors.compiler"),
        ("base/files.py", "def f():\n    from bridge.graph import capture"),
        ("graph/capture.py", "if True:\n    from bridge.tensorrt.converters.slices import refusal"),
        ("tensorrt/converters/slices.py", "from bridge.tensorrt.network import build"),
        ("core/op.py", "import bridge"),
        ("corner.py", "import torch"),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path, where, line):
    for module in ("base/files", "doors/compiler", "graph/capture", "tensorrt/network/build", "core/op"):
        (tmp_path / "bridge" / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bridge" / f"{module}.py").touch()
    (tmp_path / "bridge" / "tensorrt" / "converters").mkdir()
    (tmp_path / "bridge" / "tensorrt" / "converters" / "slices.py").touch()
    assert upward(tmp_path) == []
    (tmp_path / "bridge" / where).write_text(line)
    (told,) = upward(tmp_path)
    assert told.startswith((f"bridge/{where}:{len(line.splitlines())} imports bridge", "bridge.corner is in no wing"))


def test_no_folder_is_crowded():
    for top in ("bridge", "tests"):
        counts = Counter(path.parent.relative_to(ROOT) for path in (ROOT / top).rglob("*.py"))
        assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_file_is_long():
    """A file beyond that is two ideas. csrc/ has a limit of its own, in test_native_sources.py."""
    files = [path for top in ("bridge", "models", "tests") for path in (ROOT / top).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_names_of_test_files_are_unique():
    """pytest imports them by name alone, and refuses the second of one name."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []
