"""Engine files that need plugins, without a build."""

import pytest

from bridge.core import libraries
from bridge.tensorrt.plugins.requirements import requirements


@pytest.fixture
def file(make_engine_file):
    """An engine file with bridge's plugin relu, built with the library that is here."""
    row = vars(requirements([libraries.library("bridge")])[0])
    return make_engine_file(metadata={**make_engine_file().metadata, "libraries": [row]})
