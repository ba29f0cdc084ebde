"""The plugin library against hosts that keep no rule: drawn at random (see fuzz_plugins.py), and by name."""

import ctypes
from ctypes import c_bool, c_int32, c_size_t, c_void_p

import fuzz_children
import fuzz_plugins
import pytest
from plugin_host import Plugin, pack_dynamic, pack_tensors

from bridge.tensorrt.plugins.plugin_object import call

FLOAT, INT64 = 0, 8


def test_any_call_ends_in_a_documented_way():
    result = fuzz_children.run(fuzz_plugins.run_case, seed=16, count=3000)
    assert not result.findings, "\n".join(result.findings)
    for what in ("create", "configure", "format", "dtypes", "shapes", "shape change"):  # neither is out of reach
        assert result.outcomes[f"{what} taken"] > 20 and result.outcomes[f"{what} refused"] > 20


def test_a_crash_a_failure_and_a_hang_are_findings():
    def case(seed: int, number: int):
        if number == 3:
            ctypes.string_at(0)
        if number == 7:
            while True:
                pass
        assert number != 5, "five"
        return fuzz_children.Counter({"fine": 1})

    result = fuzz_children.run(case, seed=1, count=9, chunk=4, patience=1)
    assert [line.partition(":")[0] for line in result.findings] == [f"seed 1, case {n}" for n in (3, 5, 7)]
    for line, text in zip(result.findings, ("SIGSEGV", "five", "SIGALRM"), strict=True):
        assert text in line
    assert result.outcomes["fine"] == 2  # those of children that died are not known


def tensor(*extents, dtype=FLOAT, rank=None):
    return [list(extents), len(extents) if rank is None else rank, dtype, 0]


CONV = [tensor(2, 4, 9, 8), tensor(2, 18, 7, 6), tensor(6, 4, 3, 3)], [tensor(2, 6, 7, 6)]


def shape_change(plugin, inputs, outputs):
    arguments = pack_tensors(inputs), len(inputs), pack_tensors(outputs), len(outputs)
    return call(plugin.runtime, 1, c_int32, *arguments, types=[c_void_p, c_int32] * 2)


def configure(plugin, inputs, outputs):
    arguments = pack_dynamic(inputs, inputs), len(inputs), pack_dynamic(outputs, outputs), len(outputs)
    return call(plugin.build, 0, c_int32, *arguments, types=[c_void_p, c_int32] * 2)


def workspace(plugin, inputs, outputs):
    arguments = pack_dynamic(inputs, inputs), len(inputs), pack_dynamic(outputs, outputs), len(outputs)
    return call(plugin.build, 5, c_size_t, *arguments, types=[c_void_p, c_int32] * 2)


def enqueue(plugin, inputs, outputs, address=0x1000):
    pointers = [(c_void_p * len(rows))(*[address] * len(rows)) for rows in (inputs, outputs)]
    arguments = pack_tensors(inputs), pack_tensors(outputs), *pointers, None, None
    return call(plugin.runtime, 2, c_int32, *arguments, types=[c_void_p] * 6)


def make(name):
    return Plugin(Plugin.create(name, {}))


def test_no_enqueue_without_shapes(capfd):
    plugin = make("deform_conv2d")
    assert enqueue(plugin, *CONV) != 0
    assert shape_change(plugin, *CONV) == 0
    wrong = [tensor(2, 5, 9, 8), *CONV[0][1:]]
    assert shape_change(plugin, wrong, CONV[1]) != 0
    capfd.readouterr()
    assert enqueue(plugin, *CONV) != 0
    assert "enqueue: there was no onShapeChange before it, or it was refused" in capfd.readouterr().err


def test_enqueue_checks_shapes_that_changed_unsaid(capfd):
    plugin = make("deform_conv2d")
    assert shape_change(plugin, *CONV) == 0
    capfd.readouterr()
    assert enqueue(plugin, [tensor(2, 5, 9, 8), *CONV[0][1:]], CONV[1]) != 0
    assert "x has 5 channels, not a multiple of the weight's 4" in capfd.readouterr().err
    assert enqueue(plugin, *CONV, address=None) != 0
    assert "a tensor of 576 elements is null" in capfd.readouterr().err


@pytest.mark.parametrize("extent", [2**31, 2**32, 2**40, 2**62, 2**63 - 1])
def test_large_extents_are_refused_where_sizes_overflow(extent, capfd):
    """2^32 channels made 0 groups of 32 bits, by which enqueue then divided."""
    plugin = make("deform_conv2d")
    inputs = [tensor(1, extent, 1, 1), tensor(1, 2, 1, 1), tensor(extent, 1, 1, 1)]
    outputs = [tensor(1, extent, 1, 1)]
    taken = shape_change(plugin, inputs, outputs) == 0
    assert taken == (extent < 2**60)
    assert enqueue(plugin, inputs, outputs) != 0  # 2^31 groups, or no GPU
    assert "extents are too large" in capfd.readouterr().err


def test_workspaces_do_not_wrap(capfd):
    """2^57 boxes would take 5e18 bytes; four times as many, more than 64 bits say."""
    plugin = make("nms")
    kept = [tensor(9, dtype=INT64), tensor(dtype=INT64)]
    sizes = [workspace(plugin, [tensor(n, 4), tensor(n)], kept) for n in (10, 2**19, 2**32, 2**57, 2**59)]
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] < 2**63 and sizes[4] == 0
    assert "getWorkspaceSize: extents are too large" in capfd.readouterr().err


@pytest.mark.parametrize("rank", [-(2**31), -1, 9, 2**31 - 1])
def test_ranks_that_no_tensor_has(rank, capfd):
    plugin = make("relu")
    inputs, outputs = [tensor(1, rank=rank)], [tensor(1)]
    assert configure(plugin, inputs, outputs) != 0 and shape_change(plugin, inputs, outputs) != 0
    assert f"a tensor has {rank} dimensions, expected 0 to 8" in capfd.readouterr().err


def test_counts_and_arrays_that_are_not_there(capfd):
    plugin = make("deform_conv2d")
    inputs, outputs = CONV
    assert workspace(plugin, inputs, []) == 0 and shape_change(plugin, inputs, []) != 0
    assert "got 0 outputs, expected 1" in capfd.readouterr().err
    types = [c_int32, c_void_p, c_int32, c_int32]
    for place in (-1, 4, 2**31 - 1):
        given = pack_dynamic(inputs + outputs, inputs + outputs)
        assert not call(plugin.build, 3, c_bool, place, given, 3, 1, types=types)
    assert not call(plugin.build, 3, c_bool, 0, None, 3, 1, types=types)
    assert call(plugin.build, 0, c_int32, None, 3, None, 1, types=[c_void_p, c_int32] * 2) != 0


def test_extents_that_are_not_known_are_refused_by_enqueue_alone(capfd):
    plugin = make("relu")
    unknown = [tensor(-1, 3)], [tensor(-1, 3)]
    assert configure(plugin, *unknown) == 0 and shape_change(plugin, *unknown) == 0
    assert enqueue(plugin, *unknown) != 0
    assert "an input has an extent that is not known" in capfd.readouterr().err
    assert enqueue(plugin, [tensor(0, 3)], [tensor(-1, 3)]) == 0  # now it is, and there is nothing to do


@pytest.mark.parametrize("times", [1, 2])
def test_a_field_that_is_given_twice_is_refused(times, capfd):
    from plugin_host import creators, pack_fields

    collection = pack_fields([("negative_slope", 0.5, None, None)] * times)
    types = [ctypes.c_char_p, c_void_p, c_int32]
    made = call(creators()["relu"], 0, c_void_p, b"", ctypes.byref(collection), 0, types=types)
    assert bool(made) == (times == 1)
    assert times == 1 or "the plugin field negative_slope is given twice" in capfd.readouterr().err
