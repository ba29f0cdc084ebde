"""A cache, builds that count themselves, and processes that build slowly."""

import subprocess
import sys

import pytest
from cache_entries import A

from bridge.engine.cache import EngineCache


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def build(make_engine_file):
    """A build that counts itself."""

    def build():
        build.count += 1
        return make_engine_file()

    build.count = 0
    return build


HOLD = """
import sys, time
from pathlib import Path
from bridge.engine.cache import EngineCache
from bridge.engine_file.contents import EngineFile
folder, template, log, key, seconds = sys.argv[1:]
def build():
    with open(log, "a") as file:
        file.write("built\\n")
    print("building", flush=True)
    time.sleep(float(seconds))
    return EngineFile.load(template)
print(EngineCache(Path(folder), 1 << 30).get_or_build(key, build)[1], flush=True)
"""


@pytest.fixture
def process(cache, make_engine_file, tmp_path):
    """Starts another process that builds a key, slowly."""
    make_engine_file().save(tmp_path / "template.engine")

    def start(key=A, seconds=1.0):
        arguments = [cache.folder, tmp_path / "template.engine", tmp_path / "builds", key, seconds]
        command = [sys.executable, "-c", HOLD, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start
