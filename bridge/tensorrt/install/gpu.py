"""Whether there is a GPU, and stand-ins with which torch_tensorrt works without one."""

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bridge.base.patches import replace

# torch_tensorrt calls these while it is imported and while it converts, whether or not there is a GPU. No device has
# capability (0, 0), so none of its platform rules applies.
_STAND_INS: dict[str, Callable[..., Any]] = {
    "get_device_capability": lambda device=None: (0, 0),
    "current_device": lambda: 0,
    "mem_get_info": lambda device=None: (2**40, 2**40),
    "empty_cache": lambda: None,
    "get_device_properties": lambda device=None: types.SimpleNamespace(name="none", major=0, minor=0, total_memory=0),
}
_LOCK = threading.RLock()
_depth = 0


@contextlib.contextmanager
def without_gpu() -> Iterator[None]:
    """The context in which torch.cuda has stand-ins for what torch_tensorrt calls; a no-op on a machine with a GPU.

    One thread at a time is inside. Contexts may nest; the outermost one restores torch.cuda.
    """
    if torch.cuda.is_available():
        yield
        return
    global _depth
    with _LOCK, contextlib.ExitStack() as stack:
        if _depth == 0:
            for name, stand_in in _STAND_INS.items():
                replace(stack, torch.cuda, name, stand_in)
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1


def current_target() -> str | None:
    """The compute capability of the current GPU, such as "sm90", or None without one."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def name_of(target: str) -> str | None:
    """The name of this machine's GPU, if a target is its; else None."""
    return torch.cuda.get_device_name() if target == current_target() else None
