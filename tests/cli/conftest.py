"""A model file, an engine file, and the skip of tests that build engines."""

import pytest

from bridge.core import libraries
from bridge.errors import FlavourError, LibraryError
from bridge.tensorrt.install import flavour as flavours

MODEL = """
import argparse
import torch
import bridge
from neighbour import SLOPE

class Net(torch.nn.Module):
    def forward(self, x):
        return bridge.relu(x, SLOPE, 6.0)

def bridge_model(argv):
    parser = argparse.ArgumentParser("net")
    parser.add_argument("--weights")
    parser.add_argument("--max-batch", type=int, default=8)
    options = parser.parse_args(argv)
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    return Net().eval(), (torch.ones(2, 4),), {}, {"x": {0: batch}}

def bare(argv):
    return Net().eval()

def nothing(argv):
    return 1, 2, 3, 4, 5

def bad_args(argv):
    return Net().eval(), torch.ones(2)

def fails(argv):
    raise RuntimeError(f"no luck with {argv}")

def interrupts(argv):
    raise KeyboardInterrupt

constant = 5

if __name__ == "__main__":
    raise AssertionError("a model file is not run as a script")
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "neighbour.py").write_text("SLOPE = 0.25\n")
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def saved(tmp_path, make_engine_file):
    path = tmp_path / "a.engine"
    make_engine_file().save(path)
    return path


@pytest.fixture
def builder():
    """Skips a test where no engine for sm86 can be built."""
    try:
        flavour = flavours.detect()
        libraries.plugin_library()
    except (FlavourError, LibraryError) as error:
        pytest.skip(str(error))
    if not flavour.traits.builds_without_gpu:
        pytest.skip(f"{flavour.name} does not build for other GPUs")
