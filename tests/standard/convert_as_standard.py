"""Compiles model files for standard TensorRT, which is not there: a recording module stands for it.

python convert_as_standard.py FOLDER|FILE.json... [--compile "MODEL.py OPTIONS"]... [--json RESULT.json]

FOLDER holds unpacked bindings of standard TensorRT, FILE.json what they declare. Without --compile: every small model
of the zoo. RESULT.json has for each what `compile_all` returns.
"""

import argparse
import functools
import importlib
import importlib.metadata
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import quick_torch
import tensorrt_rtx
import torch
from declarations import Declarations
from recording_tensorrt import RecordingTensorRT

from bridge import cli
from bridge.doors import model_file
from bridge.engine_file.contents import EngineFile
from bridge.tensorrt.install import flavour, gpu, soname, tensorrt_log
from bridge.zoo import entries

_FX = ("fx", "fx.lower", "fx.utils")  # an older frontend, which torch_tensorrt's package for TensorRT-RTX lacks


def install(tensorrt: ModuleType) -> None:
    """Makes this process one in which standard TensorRT is installed, with a GPU, and TensorRT-RTX is not."""
    version_of, packages = importlib.metadata.version, importlib.metadata.packages_distributions
    versions = {"tensorrt": tensorrt.__version__, "torch-tensorrt": version_of("torch-tensorrt-rtx")}

    def version(name: str) -> str:
        if name in versions:
            return versions[name]
        if name.startswith(("tensorrt", "torch-tensorrt")):
            raise importlib.metadata.PackageNotFoundError(name)
        return version_of(name)

    importlib.metadata.version = version
    importlib.metadata.packages_distributions = lambda: {**packages(), "torch_tensorrt": ["torch-tensorrt"]}
    sys.modules["tensorrt"] = tensorrt
    sys.modules.update((f"torch_tensorrt.{name}", _Anything(name)) for name in _FX)
    gpu.current_target, gpu.name_of = lambda: "sm86", lambda target: "a GPU that is not there"
    soname.provide("libtensorrt_rtx.so", "libtensorrt_rtx.so.1")  # for the seeds


class _Anything(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def compile_all(source: str, lines: Sequence[Sequence[str]], code: Sequence[str]) -> dict[str, Any]:
    """Runs `bridge compile` with each command line, for the version of standard TensorRT that a file or folder has.

    runs: exit code and plugin layers. calls: how often each function of TensorRT was called. uses: what `uses` says.
    """
    path = Path(source)
    declared = json.loads(path.read_text()) if path.is_file() else Declarations.of(source).dumped
    tensorrt = RecordingTensorRT(declared, tensorrt_rtx)
    install(tensorrt)
    exceptions = [uses(tensorrt, each) for each in code]
    tensorrt.calls.clear()
    with tempfile.TemporaryDirectory() as folder:
        runs = [compiled(line, Path(folder, "model.engine")) for line in lines]
    return {"version": tensorrt.__version__, "runs": runs, "calls": tensorrt.calls, "uses": exceptions}


def compiled(line: Sequence[str], output: Path) -> dict[str, Any]:
    """The exit code, and the plugin layers in the engine file."""
    options = ["--flavour", "tensorrt", "--no-cache", "--quiet", "-o", str(output)]
    code = cli.main(["--debug", "compile", line[0], *options, *line[1:]])
    if code:
        return {"line": line, "code": code}
    file = EngineFile.load(output)
    plugins = [layer["op"] for layer in file.layers if layer["type"] == "PLUGIN_V3"]
    return {"line": line, "code": 0, "plugins": {op: plugins.count(op) for op in plugins}}


def uses(trt: ModuleType, code: str) -> str:
    """The exception that a statement raises, or "". It is given `trt`, a `network`, an input `x` and a `config`."""
    builder = trt.Builder(tensorrt_log.logger(flavour.detect()))
    network = builder.create_network(0)
    x = network.add_input("x", trt.DataType.FLOAT, (2, 3))
    try:
        exec(code, {"trt": trt, "network": network, "x": x, "config": builder.create_builder_config()})
    except Exception as error:
        return type(error).__name__
    return ""


def in_child(function: Callable[[], Any]) -> Any:
    """The result of a function in a fork of this process, whose imports it shares."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with os.fdopen(writer, "w") as stream:
                json.dump(function(), stream)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    assert os.waitpid(child, 0)[1] == 0, "a conversion ended its process"
    return json.loads(text)


def warm_up(path: str) -> None:
    """Exports a model, for what torch does in a process's first export: each child would take seconds for it."""
    model = model_file.load(path, [])
    program = torch.export.export(model.model, model.args, model.kwargs, dynamic_shapes=model.dynamic_shapes)
    program.run_decompositions({})


def zoo() -> list[list[str]]:
    """The command lines of the zoo's small models, whose scripts are imported."""
    sys.path.insert(0, str(entries.folder()))
    found = entries.find(entries.folder())
    for entry in found:
        importlib.import_module(entry.path.stem)  # with transformers and torchvision, once for all versions
    return [[str(entry.path), "--", *entry.small] for entry in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bindings", nargs="+")
    parser.add_argument("--compile", action="append", type=shlex.split, help="the arguments of a bridge compile")
    parser.add_argument("--use", action="append", default=[], help="a statement, whose exception is reported")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick_torch.install()
    lines = options.compile or zoo()
    warm_up(str(Path(__file__).with_name("every_converter.py")))
    results = [in_child(functools.partial(compile_all, source, lines, options.use)) for source in options.bindings]
    if options.json:
        options.json.write_text(json.dumps(results))
    for result in results:
        for run in result["runs"]:
            print(result["version"], Path(run["line"][0]).stem, "failed" if run["code"] else run["plugins"])
    return max(run["code"] for result in results for run in result["runs"])


if __name__ == "__main__":
    sys.exit(main())
