"""CUDA streams: which one a run is enqueued on, and order among runs that share memory."""

import ctypes
import functools
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bridge.errors import EngineError


def current(device: torch.device) -> int:
    """The handle of torch's current stream on a GPU; 0 is the legacy default stream."""
    return torch._C._cuda_getCurrentRawStream(device.index)


def for_engines(device: torch.device) -> int:
    """The handle of the stream on which an engine runs in the order of torch's current stream."""
    return current(device) or beside_default(device)


@functools.cache
def beside_default(device: torch.device) -> int:
    """The handle of a stream whose work the legacy default stream orders as its own; one a GPU, for the process.

    On the default stream itself TensorRT synchronises with the host. CUDA makes work on a stream that is not created
    as non-blocking, as torch's are, wait for what the default stream got before, and the reverse.
    """
    with torch.cuda.device(device):
        torch.cuda.current_stream().query()  # creates the GPU's context
        handle = ctypes.c_void_p()
        status = torch.cuda.cudart().cudaStreamCreate(ctypes.addressof(handle))
    if int(status) or handle.value is None:
        raise EngineError(f"CUDA made no stream on {device}: {status}")
    return handle.value


class Own:
    """A stream that no one else gets, for captures. torch hands out 32 streams a GPU in turns, and what another thread
    enqueues on the same one would become part of the graph.

    It is not ordered with the legacy default stream, whose use in any thread would end a capture.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            torch.cuda.current_stream().query()  # creates the GPU's context
            handle = ctypes.c_void_p()
            status = _driver().cuStreamCreate(ctypes.byref(handle), _NON_BLOCKING)
        if status or handle.value is None:
            raise EngineError(f"CUDA made no stream on {device}: error {status}")
        self.stream = torch.cuda.ExternalStream(handle.value, device)
        # Destroyed streams finish what was enqueued.
        weakref.finalize(self, _driver().cuStreamDestroy_v2, ctypes.c_void_p(handle.value)).atexit = False


_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


@functools.cache
def _driver() -> ctypes.CDLL:
    """CUDA's driver, which torch has loaded."""
    return ctypes.CDLL("libcuda.so.1")


class Order:
    """Runs that write to the same memory: one on another stream waits for the one before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: int | None = None

    def enter(self, stream: int, memory: Callable[[], Iterable[Tensor]], captured: bool = False) -> None:
        """Before a run on `stream` that uses `memory`, which its allocator then keeps for as long as the run needs it.

        A capture cannot wait for what it does not hold; torch.cuda.graph waits for the device before it begins.
        """
        if stream == self._last:
            return
        if not captured:
            now = self._stream(stream)
            if self._last is not None:
                now.wait_stream(self._stream(self._last))
            for tensor in memory():
                tensor.record_stream(now)
        self._last = stream

    def _stream(self, handle: int) -> torch.cuda.Stream:
        return torch.cuda.ExternalStream(handle, self._device) if handle else torch.cuda.default_stream(self._device)
