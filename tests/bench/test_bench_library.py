"""bridge bench --library: workloads and peers of any library's ops."""

import pytest
import torch
from bench_rows import command
from own_ops import forgotten

ACME = {
    "__init__.py": "",
    "corr.py": """
import torch
import bridge

@bridge.op("{name}::corr")
def corr(x: torch.Tensor) -> torch.Tensor:
    \"\"\"x x.\"\"\"
    return x * x
""",
    "workloads.py": """
from bridge.bench.peer import Peer
from bridge.bench.workload import Workload

class Corr(Workload):
    def arguments(self, device):
        return [self._random(device, 4, 5)], {{}}
    def bytes(self):
        return 2 * 20 * self.element

def workloads():
    yield Corr("{op}", "a small flow", "float16")
    yield Corr("{op}", "a large flow", "float16", "growth")

PEERS = (Peer("eager", "{op}", lambda workload, settings: lambda args: args[0] * args[0]),)
""",
}


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """Makes a package with an op and workloads, and gives its name; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, op=None):
        for path, text in ACME.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path).write_text(text.format(name=name, op=op or f"{name}::corr"))
        return name

    with forgotten():
        yield make


def test_the_workloads_of_another_library(capsys, acme):
    name = acme("acme_listed")
    arguments = ("--library", name, "--import", f"{name}.corr")
    code, out, _ = command(capsys, *arguments, "--list")
    assert code == 0 and f"{name}::corr  a small flow  float16  0.0 MB" in out
    assert f"{name}::corr  eager" in out.partition("peers")[2] and "relu" not in out
    assert "a large flow" in command(capsys, *arguments, "--list", "--growth", "corr")[1]
    code, _, err = command(capsys, *arguments, "rope")
    assert code == 2 and f"no workload is of 'rope'; there are {name}::corr" in err
    code, _, err = command(capsys, *arguments, "--record")
    assert code == 2 and f"the baselines in bridge are of its own ops, not of {name}'s" in err


def test_without_a_gpu_another_library_is_not_measured(capsys, acme, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name = acme("acme_measured")
    code, _, err = command(capsys, "--library", name, "--import", f"{name}.corr")
    assert code == 7 and "measures on a CUDA GPU, and there is none" in err


def test_workloads_that_are_not_there_or_of_no_op(capsys, acme, tmp_path):
    name = acme("acme_without")
    (tmp_path / name / "workloads.py").unlink()
    code, _, err = command(capsys, "--library", name, "--import", f"{name}.corr", "--list")
    assert code == 2 and f"the library {name} has no workloads: they are in a package `workloads`" in err
    code, _, err = command(capsys, "--library", "acme_nowhere", "--list")
    assert code == 7 and "there is no library acme_nowhere" in err
    code, _, err = command(capsys, "--library", name, "--import", "acme_nowhere", "--list")
    assert code == 7 and "acme_nowhere does not import" in err
    name = acme("acme_misnamed", op="corr")
    code, _, err = command(capsys, "--library", name, "--import", f"{name}.corr", "--list")
    assert code == 2 and f"has a workload of 'corr'; the ops of {name} are {name}::corr" in err
    assert command(capsys, "--engine", "x.engine", "--library", name)[2].count("--library") == 1
