"""csrc/: which folder may include which, and how long files are."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu"))
MOST_LINES = 300
# A folder and those that its files may include beside their own.
MAY_INCLUDE = {
    "core": (),
    "triton": ("core",),
    "kernels": ("core",),
    "ops": ("core", "kernels"),
    "hosts/torch": ("core",),
    "hosts/tensorrt": ("core",),
    "hosts/autoload": ("hosts/tensorrt",),
}
HOSTS = re.compile(r"#include <(torch|Nv)")


def folder_of(name: str) -> str:
    return next(folder for folder in MAY_INCLUDE if name.startswith(f"{folder}/"))


def wrong_includes(name: str, text: str) -> list[str]:
    """Includes that a file of csrc must not have."""
    folder = folder_of(name)
    own = re.findall(r'#include "(?:\.\./)?([^"]+/[^"]+)"', text)  # others lie beside the file
    wrong = [other for other in own if folder_of(other) not in (folder, *MAY_INCLUDE[folder])]
    return wrong + ([] if folder.startswith("hosts/") else HOSTS.findall(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CSRC).as_posix())
def test_includes_point_one_way(path):
    assert wrong_includes(path.relative_to(CSRC).as_posix(), path.read_text()) == []


def test_a_wrong_include_is_found():
    assert wrong_includes("core/op.h", '#include "hosts/torch/types.h"\n') == ["hosts/torch/types.h"]
    assert wrong_includes("ops/pointwise/relu.cu", "#include <torch/csrc/stable/ops.h>\n") == ["torch"]
    assert wrong_includes("kernels/pointwise/relu.cuh", '#include "core/dtype.h"\n#include <cmath>\n') == []


def test_no_file_is_two_ideas():
    assert [path.name for path in SOURCES if len(path.read_text().splitlines()) > MOST_LINES] == []
