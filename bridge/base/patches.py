"""Puts objects of ours in the place of another package's, and puts its own back.

Every change of an attribute of torch's, torch_tensorrt's or TensorRT's goes through here; a test reads the sources.
"""

import contextlib
import sys
from typing import Any


def replace(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute of a module or class until `stack` is closed; one that was changed since stays as it is."""
    _set(stack, owner, name, value, vars(owner)[name])  # a static method as such, not the function in it


def add(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """The same of an attribute that the module or class does not have of its own."""
    _set(stack, owner, name, value, vars(owner).get(name, _ABSENT))


def _set(stack: contextlib.ExitStack, owner: Any, name: str, value: Any, before: Any) -> None:
    setattr(owner, name, value)

    def put_back() -> None:
        if vars(owner).get(name) is not value:
            return
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    stack.callback(put_back)


_ABSENT = object()


def keep(stack: contextlib.ExitStack, owner: Any, *names: str) -> None:
    """Puts attributes back as they are now, whatever they become until `stack` is closed."""
    for name in names:
        stack.callback(setattr, owner, name, getattr(owner, name))


def replace_everywhere(stack: contextlib.ExitStack, package: str, original: Any, value: Any, but: str = "") -> None:
    """The same for every name in a package's modules that stands for `original`, `but` one module.

    Modules take functions of each other by name, so the module that defines one is not the only place.
    """
    for name, module in list(sys.modules.items()):
        if module is None or name == but or not (name == package or name.startswith(f"{package}.")):
            continue
        for attribute in [key for key, held in vars(module).items() if held is original]:
            replace(stack, module, attribute, value)
