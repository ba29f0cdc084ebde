"""What newcomers do wrong in an op of their own, and what they are told."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compilers import build_stub, environment, needs_c_compiler, needs_compilers
from own_ops import forgotten
from torch import Tensor

import bridge
from bridge.core.op import OPS
from bridge.testing import check_gradient, check_op
from bridge.toolchain import compiler_output, tools

SOUND = """
#include <bridge/core/op.h>

struct Corr final : bridge::Op {
  static constexpr char const* name = "corr";
  static std::vector<bridge::Param> inputs() { return {{"x", bridge::kFloating}}; }
  static std::vector<bridge::Param> outputs() { return {{"y", bridge::kLikeFirst}}; }
  int64_t count = 1;
  std::vector<bridge::Attribute> attributes() override { return {{"count", &count}}; }
  void shapes(bridge::Shape const* in, bridge::Shape* out) const override { out[0] = in[0]; }
  cudaError_t run(bridge::Tensor const*, bridge::Tensor const*, void*, cudaStream_t) const override {
    return cudaSuccess;
  }
};
bridge::Register<Corr> const registered;
"""
ATTRIBUTE = (
    "an attribute is an int64_t, double, bool, std::string, bridge::Pair, std::vector<int64_t> or std::vector<double>, "
    "as torch has them: not int, size_t, float, or a vector of those"
)
LACKS = "an op struct lacks: "
# What is exchanged in SOUND, the line that is named, and what is said of it.
RUN = "cudaError_t run(bridge::Tensor const*, bridge::Tensor const*, void*, cudaStream_t) const override"
SHAPES = "void shapes(bridge::Shape const* in, bridge::Shape* out) const override { out[0] = in[0]; }"
MISTAKES = {
    "int": ("int64_t count", "int count", 9, ATTRIBUTE),
    "float": ("int64_t count", "float count", 9, ATTRIBUTE),
    "a vector of int": ("int64_t count = 1", "std::vector<int> count", 9, ATTRIBUTE),
    "no name": ("const* name", "const* title", 15, "an op struct has a public name: static constexpr char const* name"),
    "no inputs": ("inputs()", "input()", 15, "an op struct has public inputs: static std::vector<bridge::Param>"),
    "no outputs": ("outputs()", "results()", 15, "an op struct has public outputs: static std::vector<bridge::Param>"),
    "no run": (RUN, "cudaError_t walk()", 15, LACKS + "cudaError_t run(bridge::Tensor const* in, "),
    "no shapes": (SHAPES, "", 15, LACKS + "void shapes(bridge::Shape const* in, bridge::Shape* out) const override"),
    "run is not const": (RUN, RUN[: -len(" const override")], 15, "shapes or run of an op struct has other parameters"),
    "run has another name": ("cudaError_t run(", "cudaError_t walk(", 11, None),
    "no base": ("final : bridge::Op", "final", 9, None),
    "a header of torch's": ("#include <bridge", "#include <torch/extension.h>\n#include <bridge", 2, None),
}
HINTS = {
    "run has another name": "hint: signatures of `shapes`, `run` and the others stand in bridge/core/op.h",
    "a header of torch's": "hint: ops and kernels see pointers, sizes and a stream: leave torch's headers out",
}


def explanation(folder: Path, sdk: Path, text: str) -> str | None:
    """What is said of a source; None where it compiles."""
    source = folder / "corr.cu"
    source.write_text(text)
    command = [tools.nvcc(), "-std=c++17", "-arch=sm_86", "-c", source, "-o", folder / "corr.o", "-I", sdk.parents[1]]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    return compiler_output.explain(done.stdout + done.stderr, [sdk.parent]) if done.returncode else None


@needs_compilers
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_op_struct_is_told_in_a_line(mistake, sdk, tmp_path):
    before, after, line, expected = MISTAKES[mistake]
    assert before in SOUND
    told = explanation(tmp_path, sdk, SOUND.replace(before, after))
    assert told is not None
    first = told.splitlines()[0]
    assert first.startswith(f"{tmp_path}/corr.cu:{line}: ")
    if expected is not None:
        assert first.startswith(f"{tmp_path}/corr.cu:{line}: {expected}") and len(told.splitlines()) == 1
    assert HINTS.get(mistake, "") in told and len(told.splitlines()) < 8


@needs_compilers
def test_a_sound_op_struct_compiles(sdk, tmp_path):
    assert explanation(tmp_path, sdk, SOUND) is None


# What compilers write, without one

LINKER = """[3/4] Linking CUDA shared library lib/libacme_plugins.so
FAILED: lib/libacme_plugins.so
: && /usr/bin/g++ -shared -o lib/libacme_plugins.so
/usr/bin/ld: CMakeFiles/acme_ops.dir/corr.cu.o: in function `(anonymous namespace)::Corr::run() const':
tmpxft.cudafe1.cpp:(.text+0x5): undefined reference to `acme::launch(float*)'
/usr/bin/ld: tmpxft.cudafe1.cpp:(.text+0x9): undefined reference to `acme::launch(float*)'
collect2: error: ld returned 1 exit status
"""
CMAKE = """CMake Error at CMakeLists.txt:3 (find_package):
  Could not find a package configuration file provided by "bridge" with any
  of the following names:

    bridgeConfig.cmake

-- Configuring incomplete, errors occurred!
"""
GCC = """In file included from /sdk/core/op.h:3,
                 from /mine/corr.cu:2:
/sdk/core/op.h: In instantiation of 'bridge::Attribute::Attribute(const char*, T*) [with T = int]':
/mine/corr.cu:31:63:   required from here
/sdk/core/op.h:62:19: error: static assertion failed: an attribute is an int64_t
   62 |     static_assert(kIsAttribute<T>,
"""
NVCC = """/mine/corr.cu(12): error: no instance of function template "launch" matches the argument list
            argument types are: (int *, float)
      launch(x, y);
      ^

/mine/corr.cu(12): error: no instance of function template "launch" matches the argument list
            argument types are: (int *, float)

2 errors detected in the compilation of "/mine/corr.cu".
"""


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (
            LINKER,
            "undefined reference to `acme::launch(float*)'\n"
            "hint: the file that defines it is not among the SOURCES of bridge_add_ops, or no file does",
        ),
        (
            CMAKE,
            'Could not find a package configuration file provided by "bridge" with any of the following names: '
            "bridgeConfig.cmake\nhint: bridge_DIR is the folder that `bridge cmake-dir` prints",
        ),
        (
            NVCC,
            '/mine/corr.cu:12: no instance of function template "launch" matches the argument list; '
            "argument types are: (int *, float)",
        ),
        (
            "nvcc fatal   : Unsupported gpu architecture 'compute_75'\n",
            "nvcc fatal   : Unsupported gpu architecture 'compute_75'\n"
            "hint: this nvcc does not know that GPU: see targets, BRIDGE_CUDA_ARCHITECTURES",
        ),
        ("a\n" * 30 + "Killed\n", "a\n" * 19 + "Killed"),
    ],
)
def test_what_compilers_write_is_made_readable(output, told):
    assert compiler_output.explain(output, [Path("/sdk")]) == told


def test_an_error_within_bridges_headers_is_told_at_the_authors_line():
    assert compiler_output.explain(GCC, [Path("/sdk")]).startswith("/mine/corr.cu:31: an attribute is an int64_t")


def test_many_errors_are_cut():
    output = "".join(f"/mine/corr.cu({line}): error: no\n" for line in range(50))
    assert compiler_output.explain(output, []).splitlines()[-1] == "and 30 more"


OUT_OF_BOUNDS = SOUND.replace(
    "    return cudaSuccess;",
    "    write_behind<<<1, 32, 0, stream>>>(static_cast<float*>(out[0].data), out[0].numel());\n"
    "    return cudaGetLastError();",
).replace(
    "struct Corr",
    "__global__ void write_behind(float* y, int64_t count) { y[count + threadIdx.x] = 1.f; }\nstruct Corr",
)
OUT_OF_BOUNDS = OUT_OF_BOUNDS.replace(
    "bridge::Tensor const*, bridge::Tensor const*, void*, cudaStream_t)",
    "bridge::Tensor const*, bridge::Tensor const* out, void*, cudaStream_t stream)",
)
CALL = """
import sys, torch, bridge
bridge.load_ops(sys.argv[1], "behind")

@bridge.op("behind::corr")
def corr(x: torch.Tensor, count: int = 1) -> torch.Tensor:
    return x + 0

corr(torch.ones(3, device="cuda")).cpu()
"""


@needs_compilers
def test_the_kernel_that_writes_out_of_bounds_compiles(sdk, tmp_path):
    """What the next test runs, on a GPU."""
    assert explanation(tmp_path, sdk, OUT_OF_BOUNDS) is None


@pytest.mark.gpu
@needs_compilers
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
def test_a_kernel_that_writes_out_of_bounds_is_found_by_the_sanitizer(tmp_path):
    (tmp_path / "corr.cu").write_text(OUT_OF_BOUNDS)
    command = ["compute-sanitizer", "--error-exitcode", "86", sys.executable, "-c", CALL, tmp_path]
    whole = environment() | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # so that a tensor's end is the end of its memory
    done = subprocess.run(command, env=whole, capture_output=True, text=True)
    assert done.returncode == 86, done.stdout + done.stderr
    assert "Invalid __global__ write of size 4 bytes" in done.stdout and "write_behind" in done.stdout


# In Python


def test_a_reference_without_a_gradient_is_found():
    with forgotten():

        @bridge.op("mistaken::detached")
        def detached(x: Tensor) -> Tensor:
            return 2 * x.detach()

        with pytest.raises((AssertionError, RuntimeError), match=r"Jacobian mismatch|does not require grad"):
            check_gradient(OPS["mistaken::detached"], torch.randn(3))


@needs_c_compiler
def test_a_wrong_shape_rule_is_found(tmp_path):
    build_stub(tmp_path, "mistaken", "turned(Tensor x) -> Tensor")
    with forgotten():
        bridge.load_ops(tmp_path)

        @bridge.op("mistaken::turned")
        def turned(x: Tensor) -> Tensor:
            return 2 * x

        expected = r"mistaken::turned: C\+\+ shapes \[\(5, 3\)\], Python shapes \[\(3, 5\)\] for \[\(3, 5\)\]"
        with pytest.raises(AssertionError, match=expected):
            check_op(OPS["mistaken::turned"], torch.randn(3, 5))
