"""Op structs of a generated library as a program that runs them without a host: tests/generate/op_runner.cpp."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from bridge.base import cache_folder
from bridge.generate.native.compiler import Compiler

HERE = Path(__file__).parents[1]


def build_runner(library: Path, program: Path, fake: bool) -> None:
    """Links a program from a generated library's sources. fake: with a CUDA runtime that only writes what it does."""
    compiler = Compiler(cache_folder.folder_of() / "generated")
    sources = sorted((library / "sources").glob("*.cpp"))
    runtime = [HERE / "fake_cuda.cpp"] if fake else [compiler._cuda.runtime]
    own = [*sources, HERE / "op_runner.cpp", compiler._sdk / "core" / "library.cpp", compiler.host_object(), *runtime]
    flags = [*compiler._flags, "-O0", '-DBRIDGE_NAMESPACE="acme"', f"-Wa,-I{library / 'sources'}"]
    command = [*compiler._command, *flags, *own, "-lpthread", "-ldl", "-lrt", "-o", program]
    subprocess.run(command, check=True)


def run_op(
    program: Path, op: str, inputs: Sequence[torch.Tensor | None], *options: str, **environment: str
) -> list[str]:
    """Runs an op on tensors; returns the lines that the program wrote. CalledProcessError: it failed."""
    words = []
    for index, tensor in enumerate(inputs):
        if tensor is None:
            words.append("absent")
            continue
        (program.parent / f"in{index}").write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        words.append(f"{str(tensor.dtype).removeprefix('torch.')}:{','.join(map(str, tensor.shape))}")
    command = [str(program), op, str(program.parent), *options, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout.splitlines()


def output(program: Path, index: int, like: torch.Tensor) -> torch.Tensor:
    """An output of the last run."""
    content = bytearray((program.parent / f"out{index}").read_bytes())
    return torch.frombuffer(content, dtype=like.dtype).reshape(like.shape)
