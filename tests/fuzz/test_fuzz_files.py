"""Some hundreds of changed engine files; `make fuzz` reads many more."""

from collections import Counter

import pytest
from fuzz_files import run, valid

import bridge


def test_the_file_that_is_changed_is_valid(tmp_path):
    valid().save(tmp_path / "a.engine")
    assert bridge.load(tmp_path / "a.engine").file == valid()


@pytest.mark.parametrize("seed", [1, 2])
def test_only_documented_errors_come_out_of_changed_files(seed):
    outcomes = run(150, seed, command_line=15)
    assert outcomes.keys() <= {
        "EngineFileError from bridge.load",
        "EngineError from a call",
        "EngineInputError from a call",
        "a call",
    }
    assert outcomes["EngineFileError from bridge.load"] > 50, outcomes
    assert sum((outcomes - Counter({"EngineFileError from bridge.load": 150})).values()) > 10, outcomes
