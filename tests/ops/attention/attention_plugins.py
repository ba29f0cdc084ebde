"""Plugins of the ops of attention, and their tactics."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plugin_host import Plugin

from bridge.core.op import OPS
from bridge.testing import cast


def plugin_call(op: str, args: list[Any], settings: dict[str, Any], device: str = "cpu") -> tuple[Any, list[Any], Any]:
    """The plugin, its inputs in float16, and where its result goes."""
    names = [name for name, value in zip(OPS[op].tensors, args, strict=False) if value is not None]
    plugin = Plugin(Plugin.create(op, {**settings, "tensors": ",".join(names)}))
    given = [t.to(device) for t in cast(args, torch.float16) if t is not None]
    actual = torch.empty_like(given[0])
    assert plugin.configure(given, [actual]) == 0 and plugin.shape_change(given, [actual]) == 0
    return plugin, given, actual


def check_no_tactics(op: str, arguments: Callable[[int], list[Any]], settings: dict[str, Any]) -> None:
    """Without a GPU of compute capability 9.0 there are none. arguments: of the channels of a head."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
        pytest.skip("this GPU has several")
    for head_dim in (64, 128):
        plugin, *_ = plugin_call(op, arguments(head_dim), settings)
        assert plugin.tactics() == []


def check_tactics(op: str, args: list[Any], settings: dict[str, Any], count: int) -> None:
    """Each gives the reference's result. count: of tactics on compute capability 9.0, the op's own choice included."""
    plugin, given, actual = plugin_call(op, args, settings, "cuda")
    if torch.cuda.get_device_capability() == (9, 0):
        assert plugin.tactics() == [*range(1, count + 1)]
    expected = OPS[op].call_reference(*cast(args, torch.float32), **settings)
    scratch = torch.empty(plugin.workspace(given, [actual]), dtype=torch.uint8, device="cuda")
    for tactic in (0, *plugin.tactics()):
        actual.fill_(torch.nan)
        assert plugin.set_tactic(tactic) == 0
        stream = torch.cuda.current_stream().cuda_stream
        assert plugin.enqueue(given, [actual], stream, scratch) == 0
        torch.testing.assert_close(actual.cpu().float(), expected, rtol=5e-3, atol=5e-3)
