"""The engine cache behind bridge.compile and torch.compile."""

import contextlib
import logging
import os
import sys
from pathlib import Path

import fresh_process
import pytest
import torch
from cache_entries import flip, refuse
from torch import nn

import bridge
from bridge.engine import cache as caches
from bridge.engine.cache import EngineCache
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError


class Slope(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return bridge.relu(x * 2.0, self.slope)


def compiled(slope=0.1, **settings):
    return bridge.compile(Slope(slope).eval(), (torch.ones(2, 3),), target="sm86", **settings)


def test_the_second_compilation_does_no_build(monkeypatch):
    first = compiled()
    from bridge.doors import pipeline

    monkeypatch.setattr(pipeline, "_build", lambda *args: refuse())
    second = compiled()
    assert not first.from_cache and second.from_cache and second.engine == first.engine
    with pytest.raises(AssertionError, match="built"):
        compiled(cache=False)


def test_two_slopes_two_engines():
    first, second = compiled(0.1), compiled(0.2)
    assert not second.from_cache
    slopes = [layer["attributes"]["negative_slope"] for c in (first, second) for layer in c.layers if layer["op"]]
    assert slopes == [pytest.approx(0.1), pytest.approx(0.2)]


@pytest.mark.parametrize("setting", [{"tf32": False}, {"optimization_level": 1}, {"workspace_size": 1 << 20}])
def test_settings_that_change_the_engine_change_the_entry(setting):
    compiled()
    assert not compiled(**setting).from_cache and compiled(progress=False, static_outputs=True).from_cache


def test_a_second_process_does_no_build(tmp_path):
    code = """
import sys, torch
sys.path += sys.argv[1].split(":")
from test_cache_compiled import compiled
print(compiled().from_cache)
"""
    path = os.pathsep.join(sys.path)
    outputs = [fresh_process.run(code, path, imported=fresh_process.COMPILER) for _ in range(2)]
    assert [found.stdout for found in outputs] == ["False\n", "True\n"], outputs[1].stderr


def test_a_damaged_entry_of_a_compilation_is_mended(caplog):
    first = compiled()
    (entry,) = EngineCache.of(bridge.Config()).entries()
    flip(entry.path)
    second = compiled()
    assert not second.from_cache and second.engine[:4] == first.engine[:4] and "checksum" in caplog.text
    assert compiled().from_cache


def test_torch_compile_shares_it():
    from bridge.doors.backend import bridge_backend

    x = torch.ones(2, 3)
    for cached in (False, True):
        torch._dynamo.reset()
        fast = torch.compile(Slope(0.1).eval(), backend=bridge_backend, options={"target": "sm86"})
        with torch.no_grad(), contextlib.suppress(bridge.errors.EngineError, bridge.errors.EngineInputError):
            fast(x)
        (graph,) = bridge.report(fast).graphs
        assert graph.from_cache == [cached]


def test_errors_are_not_cached():
    class Unsupported(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    for _ in range(2):
        with pytest.raises(bridge.errors.UnsupportedOpError):
            bridge.compile(Unsupported().eval(), (torch.ones(2, 2),), target="sm86")
    assert not EngineCache.of(bridge.Config()).entries()


def test_no_cache_without_the_setting():
    assert EngineCache.of(bridge.Config(cache=False)) is None
    with pytest.raises(ValueError, match="cache_size is 0"):
        bridge.Config(cache_size=0)
    found = EngineCache.of(bridge.Config(cache_dir="/somewhere", cache_size=5))
    assert (found.folder, found.limit) == (Path("/somewhere"), 5)


def test_warnings_are_our_own():
    assert caches.logger is logging.getLogger("bridge")
    with pytest.raises(EngineFileError):
        EngineFile.load("/nowhere")
