"""The header of an engine file that is right, for tests to change."""

import pytest
from fuzz_files import valid

from bridge.engine_file import container


@pytest.fixture
def header(tmp_path):
    valid().save(tmp_path / "valid.engine")
    return container.read(tmp_path / "valid.engine")[0]
