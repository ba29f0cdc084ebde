"""`bridge test`: what it prints, and its exit codes."""

import sys

import pytest
from own_ops import forgotten

from bridge import cli

LIBRARY = '''
import torch
import bridge

@bridge.op("{name}::twice")
def twice(x: torch.Tensor) -> torch.Tensor:
    """2 x."""
    return x * {other}

def twice_samples():
    yield "three", [torch.randn(3)], {{}}
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes a module of one op into the current folder, and gives its name; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name, other="2"):
        (tmp_path / f"{name}.py").write_text(LIBRARY.format(name=name, other=other))
        return ["test", "--library", name, "--import", name]

    with forgotten():
        yield write


def test_a_sound_library(library, capsys):
    assert cli.main(library("sound_library")) == 0
    out, err = capsys.readouterr()
    assert "sound_library::twice" in out and "0 failed" in out and "FAILED" not in err


def test_a_fault_is_told_at_once_and_in_the_report(library, capsys):
    assert cli.main(library("faulty_library", other="x.detach()")) == 1
    out, err = capsys.readouterr()
    assert "faulty_library::twice: gradient FAILED, sample 'three'" in err
    assert "faulty_library::twice: gradient FAILED, sample 'three'" in out and "1 failed" in out


def test_wrong_names(library, tmp_path, capsys):
    arguments = library("named_library")
    assert cli.main([*arguments, "thrice"]) == 2
    assert "no op of named_library is called 'thrice'; there are twice" in capsys.readouterr().err
    assert cli.main(["test", "--library", "no_library_at_all"]) == 7
    assert "there is no library no_library_at_all" in capsys.readouterr().err
    assert cli.main(["test", "--import", "no_module_at_all"]) == 7
    assert "no_module_at_all does not import: No module named" in capsys.readouterr().err
    assert cli.main([*arguments, "--samples", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is neither a folder nor a package of samples" in capsys.readouterr().out
