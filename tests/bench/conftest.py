"""A model file for bridge bench."""

import pytest
from bench_models import MODEL


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path
