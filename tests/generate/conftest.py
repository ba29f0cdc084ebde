"""Where packages with Triton kernels are; a library of every hand-written instance, and one cache for all tests."""

import sys
from pathlib import Path
from types import SimpleNamespace

import hand_written_ops as ops
import pytest
from run_folder import folder_of_run

from bridge.generate.build import build, plugin_name
from bridge.generate.cache import TRITON

PUBLIC_KERNELS = Path(sys.prefix, "public_kernels")

if PUBLIC_KERNELS.is_dir():
    sys.path.append(str(PUBLIC_KERNELS))

TILES = [(64, 64, 32, 2, 4), (128, 256, 64, 4, 8)]  # the second needs more shared memory than sm86 has
INSTANCES = {
    "rms_norm": ops.rms_norm(configurations=[(256, 4), (1024, 8)]),
    "product": ops.product(TILES),
    "clamped": ops.clamped(),
    "counted": ops.counted(),
    "tiled": ops.tiled(),
}


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A process's own, for tests count and damage what is in it; Triton's kernels in it are the whole run's."""
    cache, kernels = tmp_path_factory.mktemp("generated") / "cache", folder_of_run(tmp_path_factory) / "triton"
    kernels.mkdir(exist_ok=True)
    (cache / "generated").mkdir(mode=0o700, parents=True)
    (cache / "generated" / TRITON).symlink_to(kernels)
    return cache


@pytest.fixture(autouse=True)
def cache_of_its_own(shared_cache, monkeypatch):
    """In place of a fresh cache for each test."""
    monkeypatch.setenv("BRIDGE_CACHE_DIR", str(shared_cache))


@pytest.fixture(scope="session")
def generated(shared_cache):
    """instances and names of plugins by the operator's name; folder: of their library."""
    names = {name: plugin_name(instance) for name, instance in INSTANCES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGE_CACHE_DIR", str(shared_cache))
        folder = build(list(INSTANCES.values()), ["sm86", "sm90"])
    return SimpleNamespace(folder=folder, instances=INSTANCES, names=names)
