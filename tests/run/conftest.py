"""The engine of four_dtypes.py, built once for a file of tests; on a GPU also loaded."""

import pytest
from four_dtypes import build

from bridge.tensorrt.run.engine import Engine


@pytest.fixture(scope="module")
def file(make_engine_file):
    return make_engine_file(**build())


@pytest.fixture(scope="module")
def engine(file):
    return Engine(file)
