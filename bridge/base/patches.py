"""Reversible monkey patches of other packages.

Every assignment to an attribute of torch, torch_tensorrt or TensorRT goes through here; a test checks the sources.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


def replace(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute of a module or class until `stack` closes. It is not restored if it has been changed since."""
    _set(stack, owner, name, value, vars(owner)[name])  # vars keeps a static method, getattr would unwrap it


@contextlib.contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Within it an attribute is `make(original)`. An owner that lacks it, as of another version, is left unchanged."""
    with contextlib.ExitStack() as stack:
        if name in vars(owner):
            replace(stack, owner, name, make(vars(owner)[name]))
        yield


def add(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """As `replace`, for an attribute that the module or class may not define itself."""
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
    """Restores attributes to their current values when `stack` closes."""
    for name in names:
        stack.callback(setattr, owner, name, getattr(owner, name))


def replace_everywhere(stack: contextlib.ExitStack, package: str, original: Any, value: Any, but: str = "") -> None:
    """As `replace`, for every name bound to `original` in a package's modules, except in the module `but`.

    Modules import functions by name, so the defining module is not the only one to patch.
    """
    within = f"{package}."
    for name, module in list(sys.modules.items()):
        if not (name.startswith(within) or name == package) or module is None or name == but:
            continue
        for attribute in [key for key, held in vars(module).items() if held is original]:
            replace(stack, module, attribute, value)
