"""Prints what the Python bindings of a TensorRT declare, as JSON: {"version", "functions", "classes", ...}.

python bindings_dump.py tensorrt_rtx|FOLDER   FOLDER holds unpacked bindings of standard TensorRT.

Signatures come from the docstrings that pybind11 writes. Bindings of standard TensorRT need its libraries to be
imported. They are replaced by empty ones, which define the symbols that the bindings name and nothing else.
"""

import ctypes
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w*)\((.*)\) -> (.+)$", re.MULTILINE)
_NAMES = {"Sequence": "list", "List": "list", "SupportsInt": "int", "SupportsFloat": "float"}
_NAMES |= {"CapsuleType": "capsule", "Buffer": "buffer", "Callable": "function"}
_OPENING, _CLOSING = "([{<", ")]}>"


def imported(where: str):
    """The module of the bindings. OSError, ImportError: they do not load."""
    if where == "tensorrt_rtx":
        return importlib.import_module(where)
    sys.path.insert(0, where)
    with tempfile.TemporaryDirectory() as folder:
        for library in _stub_libraries(Path(where, "tensorrt_bindings", "tensorrt.so"), Path(folder)):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        return importlib.import_module("tensorrt_bindings")


def _stub_libraries(bindings: Path, folder: Path) -> list[Path]:
    """A library for each one of TensorRT's that the bindings need; the first defines every symbol."""
    names = re.findall(r"^ +U (\w+)$", _output("nm", "-D", "--undefined-only", bindings), re.MULTILINE)
    sonames = re.findall(r"\(NEEDED\).*\[(libnv[^]]+)\]", _output("readelf", "-d", bindings))
    code = "".join(f"void* {name}(void) {{ return 0; }}\n" for name in names if not name.startswith("Py"))
    libraries = [folder / soname for soname in sonames]
    for index, library in enumerate(libraries):
        command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", library, f"-Wl,-soname,{library.name}"]
        subprocess.run(command, input="" if index else code, text=True, check=True)
    return libraries


def _output(*command) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def declared(module) -> dict:
    binary = Path(sys.modules[module.ILogger.__module__].__file__).read_bytes()
    names = [name for name in vars(module) if not name.startswith("_")]
    members = {name: getattr(module, name) for name in names}
    return {
        "version": module.__version__,
        "functions": {
            name: overloads(value) for name, value in members.items() if callable(value) and not inspect.isclass(value)
        },
        "classes": {name: class_of(value) for name, value in members.items() if inspect.isclass(value)},
        "constants": [name for name, value in members.items() if not callable(value) and not inspect.ismodule(value)],
        # Names of Python methods that TensorRT calls are in no signature.
        "words": sorted({word.decode() for word in re.findall(rb"(?<=\0)([a-z][a-z0-9_]{5,50})(?=\0)", binary)}),
    }


def class_of(cls) -> dict:
    """Its own and its inherited members."""
    named = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
    methods, properties, classes = {}, {}, {}
    for name, value in named.items():
        if isinstance(value, property):
            properties[name] = {"type": _returned(value.fget), "set": _set(value.fset)}
        elif inspect.isclass(value):
            classes[name] = class_of(value)
        elif callable(getattr(cls, name)):
            methods[name] = overloads(getattr(cls, name))
    values = {name: int(value) for name, value in getattr(cls, "__members__", {}).items()}
    return {
        "bases": [base.__name__ for base in cls.__mro__[1:-1] if not base.__name__.startswith("pybind11")],
        "init": overloads(cls.__init__),
        "methods": methods,
        "properties": properties,
        "values": values,
        "classes": classes,
    }


def overloads(function) -> list[dict]:
    """[{"parameters": [[name, type, whether it has a default], ...], "returns": type}, ...]; [] if not declared."""
    found = _SIGNATURE.findall(function.__doc__ or "")
    return [
        {"parameters": [_parameter(text) for text in _split(arguments)], "returns": _short(returned.strip())}
        for _, arguments, returned in found
        if arguments != "*args, **kwargs"
    ]


def _returned(getter) -> str:
    found = _SIGNATURE.findall(getattr(getter, "__doc__", None) or "")
    return _short(found[0][2]) if found else ""


def _set(setter) -> str | None:
    """The type that a property is assigned; None if it cannot be."""
    if setter is None:
        return None
    _, arguments, _ = _SIGNATURE.findall(setter.__doc__)[0]
    return _parameter(_split(arguments)[1])[1]


def _parameter(text: str) -> list:
    name, _, rest = text.partition(": ")
    kind, equals, _ = rest.partition(" = ")
    return [name.strip(), _short(kind.strip()), bool(equals)]


def _split(arguments: str) -> list[str]:
    """The parameters, which are separated by the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(arguments):
        depth += (letter in _OPENING) - (letter in _CLOSING and arguments[index - 1] != "-")
        if letter == "," and depth == 0:
            parts.append(arguments[start:index])
            start = index + 1
    return [part for part in [*parts, arguments[start:]] if part.strip()]


def _short(kind: str) -> str:
    """A type without its module. Versions of pybind11 name the same types differently."""
    kind = re.sub(r"\b(?:\w+(?:\.|::))+(\w+)", r"\1", kind)
    return re.sub(r"\w+", lambda word: _NAMES.get(word[0], word[0]), kind)


if __name__ == "__main__":
    print(json.dumps(declared(imported(sys.argv[1]))))
