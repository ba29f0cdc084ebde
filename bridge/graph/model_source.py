"""Where in the user's model a graph node comes from."""

import os
import re
import sysconfig
from pathlib import Path

import torch
from torch.fx import Node

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+?)(?:, code: (?P<code>.*))?$')
_ROOT = re.compile(r"^[LG]\['[^']*'\]\.?")  # torch.compile's name for the model itself
_TRACED = "<eval_with_key>"  # torch.fx's name for code that it wrote
_NO_MODULE = "_empty_nn_module_stack"  # torch.export's name for nodes that its own passes make
# With the slash at the end: torchvision's folder begins like torch's.
_NOT_THE_MODEL = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_STDLIB = sysconfig.get_path("stdlib") + os.sep


def model_line(node: Node) -> str:
    """The line of the model that made a node, as `file:line in function: code`; else the node's module."""
    line = line_of_trace(node.meta.get("stack_trace") or "")
    if line:
        return line
    path = module_path(node)
    return f"in module {path}" if path else "at an unknown line"


def line_of_trace(trace: str) -> str:
    """The innermost line of the model in a stack trace as torch.fx records it; "" where there is no line."""
    frames = _frames(trace)
    inside = [frame for frame in frames if not frame[0].startswith((_TRACED, *_NOT_THE_MODEL))] or frames
    if not inside:
        return ""
    file, number, function, code = inside[-1]
    text = f"{file}:{number} in {function}" + (f": {code}" if code else "")
    return text.encode(errors="backslashreplace").decode()  # a path need not be text


def is_model_code(file: str) -> bool:
    """Whether Python code is of the model or of a library that it uses, not of torch, bridge or Python."""
    if file.startswith(("<", *_NOT_THE_MODEL)):  # <: code that has no file
        return False
    return "site-packages" in file or not file.startswith(_STDLIB)


def module_path(node: Node) -> str:
    """The module that made a node, as "layers.0.self_attn"; "" for the model itself, or if unknown."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    if not modules and node.op == "get_attr":
        return str(node.target).rpartition(".")[0]
    path = str(modules[-1][0]) if modules else ""
    return "" if path.startswith(_NO_MODULE) else _ROOT.sub("", path)


def _frames(trace: str) -> list[tuple[str, str, str, str]]:
    """(file, line, function, code) of each frame of a stack trace as torch.fx records it, outermost first."""
    frames = []
    lines = trace.splitlines()
    for index, line in enumerate(lines):
        match = _FRAME.match(line)
        if match:
            following = lines[index + 1].strip() if index + 1 < len(lines) else ""
            code = match["code"] or ("" if _FRAME.match(following) else following)
            frames.append((match["file"], match["line"], match["function"], code))
    return frames


def operator_name(node: Node) -> str:
    """The operator of a node, such as "aten.add.Tensor"; also where torch wraps it to make it functional."""
    if str(node.target).startswith("auto_functionalized") and node.args:
        return str(node.args[0])
    return str(node.target) if isinstance(node.target, (str, torch._ops.OpOverload)) else torch.typename(node.target)
