"""Where the samples of an op are found: beside it, in a folder, in a package."""

import sys
import textwrap

import pytest
from own_ops import forgotten

from bridge.base.modules import module_beside
from bridge.core.op import OPS, written
from bridge.testing import SampleError, samples_of
from bridge.testing.samples import sample_module

OP = '''
import torch
import bridge

@bridge.op("{package}::twice")
def twice(x: torch.Tensor) -> torch.Tensor:
    """2 x."""
    return x * 2
'''
SAMPLES = """
import torch

def {name}():
    yield "three", (torch.ones(3),), {{}}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package of files, imports its module of ops, and gives its name; forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(name, files):
        for path, text in {"__init__.py": "", **files}.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text).replace("{package}", name))
        made.append(name)
        return name

    with forgotten():
        yield make
    for name in [each for each in sys.modules if each.partition(".")[0] in made]:
        del sys.modules[name]


def test_a_function_in_the_module_of_the_op(package):
    name = package("beside_it", {"ops.py": OP + SAMPLES.format(name="twice_samples")})
    __import__(f"{name}.ops")
    ((label, args, kwargs),) = samples_of(f"{name}::twice")
    assert (label, args[0].tolist(), kwargs) == ("three", [1, 1, 1], {})


def test_a_module_in_a_package_around_the_op(package):
    files = {"ops/__init__.py": "", "ops/a.py": OP, "samples/__init__.py": "", "samples/twice.py": SAMPLES}
    name = package("around_it", files | {"samples/twice.py": SAMPLES.format(name="samples")})
    __import__(f"{name}.ops.a")
    assert samples_of(f"{name}::twice")[0][0] == "three"
    assert sample_module(OPS[f"{name}::twice"]).__name__ == f"{name}.samples.twice"


def test_a_folder_that_no_wheel_holds(package, tmp_path):
    name = package("without_any", {"ops.py": OP})
    __import__(f"{name}.ops")
    with pytest.raises(SampleError, match=r"has no samples: define twice_samples\(\) in without_any.ops, or samples"):
        samples_of(f"{name}::twice")
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / "shared_values.py").write_text("import torch\nX = torch.ones(3)\n")
    (folder / "twice.py").write_text("from shared_values import X\n\ndef samples():\n    return [('x', [X], {})]\n")
    assert samples_of(f"{name}::twice", folder)[0][0] == "x"
    for nowhere in ("no_such_place", "./no_such_place"):
        with pytest.raises(SampleError, match="no_such_place is neither a folder nor a package of samples"):
            samples_of(f"{name}::twice", nowhere)


def test_beside_the_bind_of_an_operator_that_exists(package):
    text = """
import torch
import bridge

@torch.library.custom_op("{package}::thrice", mutates_args=())
def thrice(x: torch.Tensor) -> torch.Tensor:
    return x * 3

@thrice.register_fake
def _(x):
    return torch.empty_like(x)

bridge.bind("{package}::thrice")

def thrice_samples():
    yield "two", [torch.ones(2)], {}
"""
    name = package("bound_one", {"ops.py": text})
    __import__(f"{name}.ops")
    assert samples_of(f"{name}::thrice")[0][0] == "two"


def test_bridges_own_samples_by_the_same_finder():
    for op in written().values():
        assert samples_of(op, "samples"), op.name


def test_a_module_that_does_not_import_says_so(package):
    name = package(
        "broken_one", {"ops.py": "", "samples/__init__.py": "", "samples/twice.py": "import no_such_module\n"}
    )
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        module_beside(f"{name}.ops", "samples.twice")
    assert module_beside(f"{name}.ops", "samples.thrice") is None
    assert module_beside("__main__", "samples.twice") is None
