"""Libraries are built once, survive damage, and say what is missing where they cannot be built."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import hand_written_kernels as kernels
import hand_written_ops as ops
import pytest
import sympy
import torch
from hand_written_ops import COLS, ROWS, with_kernel

from bridge.core.plugin_file import PluginFile
from bridge.errors import BuildError, LibraryError, TargetError, UnsupportedOpError
from bridge.generate import build as building
from bridge.generate.build import build, digest, plugin_name
from bridge.generate.native import compiler, fatbinary
from bridge.generate.program import Argument, Configuration, Region, TensorType

SUPPORT = Path(kernels.__file__).parent


def test_the_digest_is_the_same_in_another_process():
    code = (
        "import sympy, hand_written_ops as ops\n"
        "from bridge.generate.build import digest\n"
        "print(digest(ops.rms_norm()), digest(ops.clamped(low=float('nan'))))"
    )
    environment = {"PYTHONPATH": f"{SUPPORT}:{Path(building.__file__).parents[2]}", "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.split() == [digest(ops.rms_norm()), digest(ops.clamped(low=float("nan")))]


def test_the_digest_does_not_depend_on_names_of_symbols():
    renamed = ops.rms_norm()
    (a, b) = (ops.sympy.Symbol(name, integer=True, positive=True) for name in ("z9", "a1"))

    def change(value):
        if isinstance(value, ops.sympy.Basic):
            return value.xreplace({ROWS: a, COLS: b})
        if isinstance(value, tuple):
            return tuple(map(change, value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{field.name: change(getattr(value, field.name)) for field in dataclasses.fields(value)}
            )
        return value

    assert digest(change(renamed)) == digest(renamed)


@pytest.mark.parametrize(
    "other",
    [
        ops.rms_norm(torch.bfloat16),
        ops.rms_norm(cols=(16, 8192)),
        ops.rms_norm(configurations=[(256, 8)]),
        ops.rms_norm(configurations=[(256, 4), (512, 4)]),
        dataclasses.replace(ops.rms_norm(), attributes={"eps": 1e-5}),
        dataclasses.replace(ops.rms_norm(), operator="acme::other"),
    ],
)
def test_the_digest_differs_where_the_content_does(other):
    assert digest(other) != digest(ops.rms_norm())
    assert plugin_name(ops.rms_norm()) == f"rms_norm_{digest(ops.rms_norm())}"


def test_a_library_is_built_once(generated, monkeypatch):
    def fail(*arguments):
        raise AssertionError("it is compiled again")

    monkeypatch.setattr(building, "_build", fail)
    reordered = list(generated.instances.values())[::-1]
    assert build(reordered, ["sm90", "sm86", "sm90"]) == generated.folder


@pytest.fixture
def small():
    """The folder of a library with one small op."""
    return build([ops.counted()], ["sm86"])


@pytest.mark.parametrize("damage", ["truncated", "library gone", "description gone", "not JSON"])
def test_a_damaged_library_is_built_again(small, damage):
    library, description = small / "libacme_plugins.so", small / "library.json"
    if damage == "truncated":
        library.write_bytes(library.read_bytes()[:1000])
    elif damage == "library gone":
        library.unlink()
    elif damage == "description gone":
        description.unlink()
    else:
        description.write_text("{")
    assert build([ops.counted()], ["sm86"]) == small
    assert building.is_whole(small, "acme")
    assert PluginFile(library).schemas.keys() == {plugin_name(ops.counted())}


def test_a_build_that_fails_leaves_nothing_behind(shared_cache):
    with pytest.raises(BuildError):
        build([with_kernel(kernels.calls_nothing_known)], ["sm86"])
    left = [path.name for path in (shared_cache / "generated" / "acme").iterdir()]
    assert not [name for name in left if name.startswith(".") or name.endswith(".lock")]


def test_an_error_of_triton_names_the_kernel_its_line_and_the_reason():
    with pytest.raises(BuildError) as caught:
        build([with_kernel(kernels.calls_nothing_known)], ["sm86"])
    line = next(
        number
        for number, text in enumerate(Path(kernels.__file__).read_text().splitlines(), 1)
        if "no_such_function" in text
    )
    text = str(caught.value)
    assert "acme::single: kernel calls_nothing_known" in text
    assert f"hand_written_kernels.py:{line}) does not compile for sm86" in text
    assert "no_such_function is not defined" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": (TensorType(torch.bool, (16,)),)}, "x is bool; tensors of plugins are float32"),
        ({"outputs": (TensorType(torch.float64, (16,)),)}, "output 0 is float64; tensors of plugins are float32"),
        ({"inputs": (TensorType(torch.float32, (1,) * 9),)}, "x has 9 dimensions"),
        ({"inputs": (None,), "schema": "single(Tensor? x) -> Tensor"}, "it has no first tensor"),
        ({"schema": "single(int n, Tensor x) -> Tensor", "attributes": {"n": 1}}, "tensors come before attributes"),
        (
            {"schema": "single(Tensor x, int[]? t) -> Tensor", "attributes": {"t": [6]}},
            "with the value [6]",
        ),
        ({"outputs": (TensorType(torch.float32, (ROWS,)),)}, "s0 is no extent of an input"),
    ],
)
def test_what_a_plugin_cannot_be_is_refused(change, message):
    instance = dataclasses.replace(with_kernel(kernels.row_sum), **change)
    with pytest.raises(UnsupportedOpError, match="acme::single: ") as caught:
        building._generate(instance, FakeKernels())
    assert message in str(caught.value)


class FakeKernels:
    """Compiles nothing."""

    capabilities = ()

    def compile(self, sources):
        list(sources)

    def code(self, source, tuned):
        return {}


def one_launch(**changes):
    """An op whose only launch has other fields."""
    instance = ops.clamped()
    launch = dataclasses.replace(instance.regions[0].steps[0], **changes)
    return dataclasses.replace(instance, regions=(Region((), (), (launch,)),))


def arguments_with(name, **changes):
    """Those of `clamped` with another value or type."""
    launch = ops.clamped().regions[0].steps[0]
    return tuple(dataclasses.replace(each, **changes) if each.name == name else each for each in launch.arguments)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({"arguments": arguments_with("factor", type="fp16")}, "factor is fp16; arguments are addresses, integers"),
        ({"arguments": arguments_with("factor", value=sympy.sin(ROWS))}, "sin(n0) has sin, which generated code"),
        ({"arguments": arguments_with("count", value=ROWS**40)}, "which 64 bits do not hold"),
        ({"arguments": (Argument("x_ptr", "*fp32", 1),)}, "a launch gives no y_ptr, count, factor"),
        ({"configurations": (Configuration({"BLOCK": object()}, {}, (1, 1, 1)),)}, "the constant BLOCK is <object"),
        ({"configurations": (Configuration({"BLOCK": 8, "NO": 1}, {}, (1, 1, 1)),)}, "has no parameter NO"),
    ],
)
def test_launches_that_cannot_be_are_refused(launch, message):
    with pytest.raises(UnsupportedOpError) as caught:
        building._generate(one_launch(**launch), FakeKernels())
    assert message in str(caught.value)


def test_clusters_are_refused():
    with pytest.raises(UnsupportedOpError) as caught:
        build([with_kernel(kernels.row_sum, {"num_warps": 1, "num_ctas": 2})], ["sm90"])
    text = str(caught.value)
    assert text.startswith(f"acme::single: kernel row_sum ({kernels.__file__}:")
    assert text.endswith("cannot be part of a plugin: it needs clusters of 2 programs (num_ctas)")


def test_a_configuration_that_does_not_fit_is_an_error_where_no_other_is_left():
    large = ops.product([(128, 256, 64, 4, 8)])
    with pytest.raises(BuildError, match=r"matmul .* for sm86: it needs [\d,]+ bytes of shared memory, of 101,376"):
        build([large], ["sm86"])


@pytest.mark.parametrize("target", ["sm70", "86", "sm8x"])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(TargetError, match=target):
        build([ops.counted()], [target])


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(LibraryError, match=r"CXX names 'no-such-compiler', which is no program.*install g"):
        build([ops.rms_norm(torch.float32)], ["sm86"])
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LibraryError, match=r"no g\+\+ is on PATH"):
        build([ops.rms_norm(torch.float32)], ["sm86"])


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho 'op.h:1:1: error: no C++ today' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(LibraryError, match=r"op\.h:1: no C\+\+ today"):
        build([ops.counted()], ["sm86"])


def test_a_missing_nvfatbin_is_named(monkeypatch):
    monkeypatch.setattr(fatbinary, "_find", lambda: None)
    fatbinary._library.cache_clear()
    try:
        with pytest.raises(LibraryError, match="pip install nvidia-nvfatbin"):
            fatbinary.fat_binary({86: b""}, "x")
    finally:
        fatbinary._library.cache_clear()


def test_missing_headers_of_cuda_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "_PACKAGES", ("nowhere",))
    monkeypatch.setattr(compiler, "_TOOLKIT", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(LibraryError, match=r"libcudart_static\.a are not here"):
        compiler.find_cuda()


def test_a_toolkit_serves_where_torch_has_no_headers(tmp_path, monkeypatch):
    cuda = compiler.find_cuda()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "include").symlink_to(cuda.headers)
    (tmp_path / "lib64" / cuda.runtime.name).symlink_to(cuda.runtime)
    monkeypatch.setattr(compiler, "_PACKAGES", ("nowhere",))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert compiler.find_cuda() == compiler.Cuda(tmp_path / "include", tmp_path / "lib64" / cuda.runtime.name)


def test_a_damaged_cubin_is_refused_by_name():
    with pytest.raises(LibraryError, match="a cubin of norm for sm86"):
        fatbinary.fat_binary({86: b"no cubin at all" * 9}, "norm")


def test_the_folder_of_the_cache_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compiler.cache_folder_of(Path("here")) == tmp_path / "here"
    (tmp_path / "file").touch()
    with pytest.raises(LibraryError, match="BRIDGE_CACHE_DIR names another folder"):
        compiler.cache_folder_of(Path("file"))
