"""`bridge new op`: what it writes, adds and refuses; and that what it writes is a sound op."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_ops import forgotten

import bridge
from bridge import cli
from bridge.cli import new_command
from bridge.core.op import OPS
from bridge.errors import BridgeError
from bridge.testing import check_gradient

FILES = [
    ".gitignore",
    "CMakeLists.txt",
    "README.md",
    "csrc/soft.cu",
    "csrc/soft.cuh",
    "pyproject.toml",
    "tests/test_soft.py",
    "young_soft/__init__.py",
    "young_soft/soft.py",
]


def new(name, *arguments):
    return cli.main(["new", "op", name, *map(str, arguments)])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def package(tmp_path):
    assert new("young::soft", "--out", tmp_path / "young_soft") == 0
    return tmp_path / "young_soft"


def test_a_package_is_written_under_the_names_that_are_given(package, capsys):
    assert files(package) == FILES
    assert not [
        path for path in package.rglob("*") if path.is_file() and re.search("my_?(op|name)", path.read_text(), re.I)
    ]
    assert 'young = "young_soft"' in (package / "pyproject.toml").read_text()
    assert "struct Soft final : bridge::Op" in (package / "csrc" / "soft.cu").read_text()


def test_the_formula_stands_in_two_places(package):
    marked = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".md" and "the formula" in path.read_text()
    ]
    assert sorted(marked) == ["csrc/soft.cuh", "young_soft/soft.py"]
    assert "csrc/soft.cuh" in (package / "README.md").read_text()


def test_the_folder_is_named_after_the_op(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new("young::a_b2") == 0
    assert (tmp_path / "young_a_b2" / "young_a_b2" / "a_b2.py").is_file()
    assert "struct AB2 final" in (tmp_path / "young_a_b2" / "csrc" / "a_b2.cu").read_text()
    assert 'name = "young-a-b2"' in (tmp_path / "young_a_b2" / "pyproject.toml").read_text()


def test_what_is_written_is_an_op(package, monkeypatch):
    """The reference; test_example.py builds a package that began so."""
    monkeypatch.syspath_prepend(package)
    with forgotten():
        soft = importlib.import_module("young_soft").soft
        check_gradient(OPS["young::soft"], torch.randn(3, 5), limit=0.5)
        assert soft(torch.tensor([100.0]), limit=2.0).tolist() == [2.0]
        with pytest.raises(bridge.errors.OpInputError, match=r"soft: limit is 0\.0, expected"):
            soft(torch.ones(1), limit=0.0)


def test_a_further_op_goes_into_the_same_package(package, capsys):
    before = {path: path.read_text() for path in package.rglob("*") if path.is_file()}
    assert new("young::hard", "--out", package) == 0
    assert set(files(package)) - set(FILES) == {
        "csrc/hard.cu",
        "csrc/hard.cuh",
        "tests/test_hard.py",
        "young_soft/hard.py",
    }
    init = package / "young_soft" / "__init__.py"
    assert [path for path, text in before.items() if path.read_text() != text] == [init]
    assert init.read_text() == before[init] + "from young_soft.hard import hard as hard\n"
    assert "from young_soft import hard" in (package / "tests" / "test_hard.py").read_text()


def test_nothing_is_overwritten(package, capsys):
    (package / "csrc" / "soft.cu").write_text("mine")
    assert new("young::soft", "--out", package) == 1
    assert f"nothing is written, for it would overwrite {package}/csrc/soft.cu, " in capsys.readouterr().err
    assert (package / "csrc" / "soft.cu").read_text() == "mine" and files(package) == FILES


def test_a_package_has_one_namespace(package, capsys):
    assert new("other::soft", "--out", package) == 1
    assert "is a package of the namespace young, and a package has one" in capsys.readouterr().err
    with pytest.raises(BridgeError, match=r"or the op young::…"):
        new_command.package_in(package, "other")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("soft", "'soft' is no name of an op, expected a namespace and a name in lower case"),
        ("Young::soft", "is no name of an op"),
        ("young::so ft", "is no name of an op"),
        ("bridge::soft", "bridge is taken"),
        ("young::torch", "torch is taken"),
        ("young::lambda", "lambda is a word of Python or C++"),
        ("young::double", "double is a word of Python or C++"),
    ],
)
def test_names_that_would_not_build_are_refused(name, text, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        new(name, "--out", tmp_path / "package")
    assert exit.value.code == 2 and text in capsys.readouterr().err
    assert not (tmp_path / "package").exists()


def test_templates_are_formatted_as_they_are_written(package):
    """No line grows too long by a name of usual length, and all Python parses."""
    for path in package.rglob("*.py"):
        ast.parse(path.read_text())
    long = [
        path.name
        for path in package.rglob("*")
        if path.is_file()
        for line in path.read_text().splitlines()
        if len(line) > 120
    ]
    assert not long


def test_the_templates_are_in_the_package():
    folder = Path(cli.__file__).parent
    assert new_command.TEMPLATES.is_relative_to(folder)
    ignored = subprocess.run(
        ["git", "check-ignore", *new_command.TEMPLATES.rglob("*")], capture_output=True, text=True, cwd=folder
    )
    assert [line for line in ignored.stdout.splitlines() if "__pycache__" not in line] == [], sys.executable
