"""README.md of an exported folder: what is in it, and the commands to run it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bridge.base.text import markdown_table, shape_text

_ROOTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def text(described: Mapping[str, Any]) -> str:
    """The README of a folder with this manifest."""
    return "\n\n".join(_sections(described)) + "\n"


def _sections(described: Mapping[str, Any]) -> Iterator[str]:
    flavour, version = _ROOTS[described["flavour"]], described["tensorrt"]
    release = ".".join(version.split(".")[:2])
    plan, has_plugins = described["engine"]["file"], bool(described["libraries"])
    yield f"# {described['model'] or 'An engine'}, for {described['target']}"
    yield (
        f"`{plan}` is an engine of {flavour} {version}. It runs with {flavour} {release} on {described['machine']}, on "
        f"a GPU of compute capability {_capability(described['target'])}. `manifest.json` says the rest, for programs. "
        "The plan and the libraries are code: run them if you trust who made them."
    )
    yield "## Inputs and outputs\n\n" + markdown_table(
        ("input", "dtype", "least", "tuned for", "greatest"),
        [
            (each["name"], each["dtype"], *(shape_text(each[bound]) for bound in ("min", "opt", "max")))
            for each in described["inputs"]
        ],
    )
    yield markdown_table(
        ("output", "dtype", "shape; ? follows from the inputs"),
        [(each["name"], each["dtype"], shape_text(each["shape"])) for each in described["outputs"]],
    )
    yield "## Check\n\nWhere bridge is installed; without it, compare SHA-256 with `manifest.json`:\n\n" + _code(
        "bridge verify ."
    )
    yield _cpp(described)
    yield _python(described, plan, has_plugins)
    yield _tools(described, plan, has_plugins)


def _cpp(described: Mapping[str, Any]) -> str:
    names = [(each["name"], _extents(each["opt"])) for each in described["inputs"]]
    arguments = shlex.join(f"{name}:{extents}={name}.bin" for name, extents in names)
    return "## C++\n\nWith `examples/cpp` of bridge's sources, and the SDK of this version:\n\n" + _code(
        "cmake -S examples/cpp -B build/cpp -DTENSORRT_ROOT=/opt/tensorrt && cmake --build build/cpp\n"
        f"build/cpp/run_folder . results {arguments}"
    )


def _python(described: Mapping[str, Any], plan: str, has_plugins: bool) -> str:
    load = [f'ctypes.CDLL("{described["autoload"]["file"]}")  # registers the plugins'] if has_plugins else []
    allow = ["runtime.engine_host_code_allowed = True"] if described["embedded"] else []
    lines = [
        "import ctypes" if has_plugins else "",
        f"import {described['flavour']} as trt",
        "",
        *load,
        "runtime = trt.Runtime(trt.Logger())",
        *allow,
        f'engine = runtime.deserialize_cuda_engine(open("{plan}", "rb").read())',
    ]
    return "## Python\n\nWithout bridge and without torch:\n\n" + _code("\n".join(lines).lstrip("\n"), "python")


def _tools(described: Mapping[str, Any], plan: str, has_plugins: bool) -> str:
    if described["embedded"]:
        return (
            f"## Servers and tools\n\n`{plan}` holds its plugin libraries. A host has to allow that: "
            "`IRuntime::setEngineHostCodeAllowed(true)`."
        )
    if not has_plugins:
        return f"## Servers and tools\n\nThe engine needs no plugin: `{plan}` is all that they take."
    autoload, first = described["autoload"]["file"], described["libraries"][0]["file"]
    rows = [
        ("TensorRT's API", f'`getPluginRegistry()->loadLibrary("{first}")`, and so for each library'),
        ("programs that only load files", f"`{autoload}`, once TensorRT is loaded: it registers those beside it"),
    ]
    if described["flavour"] == "tensorrt":
        shapes = shlex.quote(",".join(f"{each['name']}:{_extents(each['opt'])}" for each in described["inputs"]))
        rows += [
            ("trtexec", f"`trtexec --loadEngine={plan} --staticPlugins={autoload} --shapes={shapes}`"),
            ("Triton Inference Server", f"`--backend-config=tensorrt,plugins={autoload}`"),
        ]
    return "## Servers and tools\n\n" + markdown_table(("host", "how it gets the plugins"), rows)


def _code(lines: str, language: str = "bash") -> str:
    return f"```{language}\n{lines}\n```"


def _extents(extents: Sequence[int]) -> str:
    return "x".join(map(str, extents))


def _capability(target: str) -> str:
    digits = target.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"
