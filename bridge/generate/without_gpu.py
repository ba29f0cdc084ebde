"""A GPU that is not there, for torch and for Triton, so that kernels are traced and written alike on every machine."""

import contextlib
import threading
import types
from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch._dynamo import device_interface
from torch._subclasses import fake_tensor
from torch.utils import _triton as torch_triton
from triton.backends.compiler import GPUTarget

from bridge.base.patches import replace
from bridge.errors import UnsupportedOpError
from bridge.generate.native.kernels import SHARED_BYTES

# Compute capability → multiprocessors, threads of each: of A100, A10, L4, H100 and RTX 5090. A capability that is not
# here counts as the greatest below it.
_GPUS = {(8, 0): (108, 2048), (8, 6): (72, 1536), (8, 9): (58, 1536), (9, 0): (132, 2048), (12, 0): (170, 1536)}
_KEPT = "caching_worker_device_properties"
_LOCK = threading.RLock()


@contextlib.contextmanager
def stand_in_gpu(capability: tuple[int, int] = (8, 0)) -> Iterator[None]:
    """The context in which torch.cuda and Triton answer as if there were one GPU of a compute capability.

    So it is on machines with a GPU, too. Fake tensors may be on it, kernels cannot run. One thread at a time is inside;
    contexts nest. UnsupportedOpError: this torch or Triton lacks a name that is replaced.
    """
    with _LOCK, contextlib.ExitStack() as stack:
        stack.enter_context(_without_memory())
        properties = device_properties(capability)
        for name, answer in _answers(capability, properties).items():
            replace(stack, having(torch.cuda, name), name, answer)
        context = "init_gpu_context"  # it allocates on the GPU
        replace(stack, having(fake_tensor, context), context, lambda device: None)
        replace(stack, having(triton.runtime.driver, "_active"), "_active", _Driver(capability, properties))
        yield


@contextlib.contextmanager
def _without_memory() -> Iterator[None]:
    """Within it and after it, torch asks again for what it keeps of a GPU's properties."""
    known = vars(having(device_interface, _KEPT))[_KEPT]
    before = dict(known)
    known.clear()
    _forget()
    try:
        yield
    finally:
        known.clear()
        known.update(before)
        _forget()


def _forget() -> None:
    for function in vars(torch_triton).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def device_properties(capability: tuple[int, int]) -> types.SimpleNamespace:
    """What torch.cuda.get_device_properties() tells of the stand-in."""
    like = max((known for known in _GPUS if known <= capability), default=min(_GPUS))
    processors, threads = _GPUS[like]
    shared = SHARED_BYTES[10 * like[0] + like[1]]
    return types.SimpleNamespace(
        name="stand-in",
        major=capability[0],
        minor=capability[1],
        multi_processor_count=processors,
        max_threads_per_multi_processor=threads,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=shared,
        shared_memory_per_multiprocessor=shared + 1024,
        warp_size=32,
        total_memory=2**34,
        L2_cache_size=2**22,
        is_integrated=False,
    )


def having(owner: Any, name: str) -> Any:
    """The owner of a name that is to be replaced. UnsupportedOpError: it has none; private names move."""
    if name not in vars(owner):
        where = getattr(owner, "__name__", type(owner).__name__)
        raise UnsupportedOpError(
            f"{where} has no {name!r} in torch {torch.__version__} with triton {triton.__version__}; kernels are"
            " generated with torch 2.11 to 2.14"
        )
    return owner


def _answers(capability: tuple[int, int], properties: types.SimpleNamespace) -> dict[str, Any]:
    """What torch.cuda's functions are replaced with, by name."""
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "_exchange_device": lambda device: 0,  # torch.cuda.device() calls both
        "_maybe_exchange_device": lambda device: 0,
    }
    if not torch.cuda.is_available():
        answers["_lazy_init"] = lambda: None
    return answers


class _Driver:
    """What kernels' callers and their analysis ask Triton's driver for."""

    def __init__(self, capability: tuple[int, int], properties: types.SimpleNamespace) -> None:
        self._target = GPUTarget("cuda", 10 * capability[0] + capability[1], properties.warp_size)
        known = {
            "max_shared_mem": properties.shared_memory_per_block_optin,
            "max_num_regs": properties.regs_per_multiprocessor,
            "multiprocessor_count": properties.multi_processor_count,
            "warpSize": properties.warp_size,
        }
        self.utils = types.SimpleNamespace(get_device_properties=lambda device: known)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)
