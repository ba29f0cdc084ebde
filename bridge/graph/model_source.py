"""Where in the user's model a graph node comes from."""

import os
import re
import sysconfig
from pathlib import Path

import torch
from torch.fx import Node

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+?)(?:, code: (?P<code>.*))?$')
_ROOT = re.compile(r"^[LG]\['[^']*'\]\.?")  # torch.compile's name for the model itself
_NO_MODULE = "_empty_nn_module_stack"  # torch.export's for nodes that its own passes make
# With the slash at the end: torchvision's folder begins like torch's.
_NOT_THE_MODEL = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_STDLIB = sysconfig.get_path("stdlib") + os.sep


def model_line(node: Node) -> str:
    """The line of the model that made a node, as `file:line in function: code`; its module where no line is known."""
    line = line_of_trace(node.meta.get("stack_trace") or "")
    if line:
        return line
    path = module_path(node)
    return f"in module {path}" if path else "at an unknown line"


def line_of_trace(trace: str) -> str:
    """The innermost line of the model in a stack trace as torch.fx records it; "" where there is no line."""
    frames = _frames(trace)
    inside = [frame for frame in frames if not frame[0].startswith(_NOT_THE_MODEL)] or frames
    if not inside:
        return ""
    file, number, function, code = inside[-1]
    found = f"{file}:{number} in {function}" + (f": {code}" if code else "")
    return found.encode(errors="backslashreplace").decode()  # a path need not be text


def is_the_models(file: str) -> bool:
    """Whether a file of Python code is the model's, or a library's that the model uses; not torch, bridge or Python."""
    if file.startswith(("<", *_NOT_THE_MODEL)):  # <: code that has no file
        return False
    return "site-packages" in file or not file.startswith(_STDLIB)


def module_path(node: Node) -> str:
    """The module of the model that made a node, as "layers.0.self_attn"; "" for the model itself, or if not known."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    if not modules and node.op == "get_attr":
        return str(node.target).rpartition(".")[0]
    path = str(modules[-1][0]) if modules else ""
    return "" if path.startswith(_NO_MODULE) else _ROOT.sub("", path)


def _frames(trace: str) -> list[tuple[str, str, str, str]]:
    """(file, line, function, code) of each frame of a stack trace as torch.fx records it, outermost first."""
    found = []
    lines = trace.splitlines()
    for index, line in enumerate(lines):
        match = _FRAME.match(line)
        if match:
            following = lines[index + 1].strip() if index + 1 < len(lines) else ""
            code = match["code"] or ("" if _FRAME.match(following) else following)
            found.append((match["file"], match["line"], match["function"], code))
    return found


def operator_name(node: Node) -> str:
    """What a node calls, such as "aten.add.Tensor"; of an operator that writes in place, which torch wraps, itself."""
    if str(node.target).startswith("auto_functionalized") and node.args:
        return str(node.args[0])
    return str(node.target) if isinstance(node.target, (str, torch._ops.OpOverload)) else torch.typename(node.target)
