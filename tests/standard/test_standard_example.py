"""examples/standard_tensorrt.py, as far as it goes without a GPU: networks whose evaluation is right."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "standard_tensorrt.py"


def test_networks_are_right(evaluated, capsys):
    pytest.importorskip("torch_tensorrt")
    if torch.cuda.is_available():
        pytest.skip("with a GPU the example runs engines")
    names = runpy.run_path(str(EXAMPLE))
    assert [dict(door.plugin_counts()) for door in names["doors"]] == [{"rope": 1, "relu": 1}, {}]
    assert capsys.readouterr().out == "2 engines are built\n"
    for door in names["doors"]:
        for batch in (1, 3):
            inputs = torch.randn(batch, 4, 8, 32), names["inputs"][1]
            torch.testing.assert_close(door(*inputs), names["model"](*inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu(engines=True)
def test_engines_are_right(capsys):
    runpy.run_path(str(EXAMPLE))
    assert capsys.readouterr().out == "4 engines are right\n"
