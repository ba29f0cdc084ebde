"""Triton's private API is where bridge/generate/native/triton_private.py looks for it: a failure says what moved."""

import inspect
import struct

import hand_written_kernels as kernels
import pytest
import triton

from bridge.generate.native import triton_private
from bridge.generate.native.triton_private import Refusal, compile_kernel, settings

SIGNATURE = {"x_ptr": "*fp32", "y_ptr": "*fp32", "BLOCK": "constexpr"}


def compile_row_sum(capability, divisible=(), **options):
    return compile_kernel(kernels.row_sum, SIGNATURE, {"BLOCK": 1024}, frozenset(divisible), options, capability)


def test_a_kernel_says_what_it_is():
    _, first = inspect.getsourcelines(kernels.row_sum.fn)
    assert triton_private.source_of(kernels.row_sum) == (kernels.__file__, first + 1)  # below its decorator
    assert triton_private.name_of(kernels.row_sum) == "row_sum"
    assert triton_private.parameters(kernels.row_sum) == ["x_ptr", "y_ptr", "BLOCK"]
    assert triton_private.cache_key(kernels.row_sum) != triton_private.cache_key(kernels.row_scale)
    assert triton_private.is_function(kernels.row_sum)
    assert triton_private.is_dtype(triton.language.float16)
    assert triton_private.unwrap(triton.language.constexpr(3)) == triton_private.unwrap(3) == 3


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 120])
def test_kernels_compile_without_a_gpu(capability, tmp_path):
    with settings(tmp_path):
        compiled = compile_row_sum(capability, num_warps=4)
    assert compiled.name == "row_sum"
    assert compiled.cubin[:4] == b"\x7fELF"
    assert compiled.warps == 4
    assert 0 < compiled.shared_bytes < 1024
    assert (compiled.scratch_bytes, compiled.scratch_align) == (0, 1)


def test_options_and_divisibility_reach_the_compiler(tmp_path):
    with settings(tmp_path):
        codes = [compile_row_sum(86, divisible, num_warps=w) for divisible in ((), ("x_ptr",)) for w in (1, 4)]
    assert len({code.cubin for code in codes}) == 4
    assert [code.warps for code in codes] == [1, 4, 1, 4]


def test_two_addresses_come_after_a_kernels_own_arguments(tmp_path):
    """csrc/triton/queue.h passes them: of Triton's scratch memory, and of its profiler's."""
    with settings(tmp_path):
        triton.knobs.compilation.store_binary_only = False
        compile_row_sum(86)
    (ptx,) = tmp_path.rglob("row_sum.ptx")
    entry = ptx.read_text().partition(".entry row_sum(")[2].partition(")")[0]
    assert entry.count(".param .u64") == len(entry.strip().split(",")) == 2 + 2


def test_cubins_hold_no_line_tables_and_are_kept(tmp_path):
    with settings(tmp_path):
        first = compile_row_sum(86)
    assert b"debug_line" not in first.cubin
    assert len(list(tmp_path.rglob("row_sum.cubin"))) == 1
    assert not list(tmp_path.rglob("*.ptx"))
    with settings(tmp_path), pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.compiler.ASTSource, "make_ir", None)  # would be called to compile
        assert compile_row_sum(86) == first


def test_settings_are_undone(tmp_path, monkeypatch):
    from triton import knobs
    from triton.runtime import driver

    def state():
        return knobs.compilation.disable_line_info, knobs.compilation.store_binary_only, knobs.cache.dir, driver._active

    monkeypatch.setenv("TRITON_DISABLE_LINE_INFO", "0")
    before = state()
    with pytest.raises(ZeroDivisionError), settings(tmp_path):
        assert state() != before
        raise ZeroDivisionError
    assert state() == before


def test_code_may_ask_for_its_target(tmp_path):
    with settings(tmp_path):
        cubins = [
            compile_kernel(kernels.asks_target, SIGNATURE, {"BLOCK": 32}, frozenset(), {}, c).cubin for c in (86, 90)
        ]
    five, seven = struct.pack("<f", 5.0), struct.pack("<f", 7.0)
    assert [five in cubin for cubin in cubins] == [True, False]
    assert [seven in cubin for cubin in cubins] == [False, True]


REASONS = [("calls_nothing_known", "no_such_function", False), ("asserts", "BLOCK is too small", True)]


@pytest.mark.parametrize(("kernel", "reason", "unfit"), REASONS)
def test_reasons_are_tritons(kernel, reason, unfit, tmp_path):
    with settings(tmp_path), pytest.raises(Refusal) as caught:
        compile_kernel(getattr(kernels, kernel), SIGNATURE, {"BLOCK": 16}, frozenset(), {}, 86)
    assert reason in str(caught.value)
    assert caught.value.unfit == unfit


def test_headers_of_cuda_are_beside_triton():
    assert (triton_private.include_folder() / "crt" / "host_defines.h").is_file()
