"""CUDA streams: which one an engine runs on, and the order of runs that share memory."""

import ctypes
import functools
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bridge.errors import EngineError


def current_handle(device: torch.device) -> int:
    """The handle of torch's current stream on a GPU; 0 means the legacy default stream."""
    return torch._C._cuda_getCurrentRawStream(device.index)


def for_engines(device: torch.device) -> int:
    """The handle of the stream to run an engine on, ordered like torch's current stream."""
    return current_handle(device) or stream_for_default(device)


@functools.cache
def stream_for_default(device: torch.device) -> int:
    """The handle of a blocking stream that replaces the legacy default stream for engines; one per GPU.

    On the default stream itself TensorRT synchronises with the host. A blocking stream waits for earlier work of the
    default stream, and the reverse; torch's own streams are non-blocking.
    """
    with torch.cuda.device(device):
        torch.cuda.current_stream().query()  # creates the GPU's context
        handle = ctypes.c_void_p()
        status = torch.cuda.cudart().cudaStreamCreate(ctypes.addressof(handle))
    if int(status) or handle.value is None:
        raise EngineError(f"CUDA made no stream on {device}: {status}")
    return handle.value


class CaptureStream:
    """A stream for captures that nothing else uses.

    torch hands out 32 streams per GPU in rotation; work of another thread on the same one would join the graph. The
    stream is non-blocking: otherwise any use of the legacy default stream, in any thread, would end a capture.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            torch.cuda.current_stream().query()  # creates the GPU's context
            handle = ctypes.c_void_p()
            status = _driver().cuStreamCreate(ctypes.byref(handle), _NON_BLOCKING)
        if status or handle.value is None:
            raise EngineError(f"CUDA made no stream on {device}: error {status}")
        self.stream = torch.cuda.ExternalStream(handle.value, device)
        # A destroyed stream still finishes its work.
        weakref.finalize(self, _driver().cuStreamDestroy_v2, ctypes.c_void_p(handle.value)).atexit = False


_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


@functools.cache
def _driver() -> ctypes.CDLL:
    """CUDA's driver, which torch has loaded."""
    return ctypes.CDLL("libcuda.so.1")


class StreamOrder:
    """Orders runs that write to the same memory: a run on another stream waits for the one before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: int | None = None

    def enter(self, stream: int, memory: Callable[[], Iterable[Tensor]], captured: bool = False) -> None:
        """Call it before a run on `stream`; torch's allocator then keeps `memory` until the run ends.

        A capture cannot wait for work outside of it; torch.cuda.graph synchronises the device before it begins.
        """
        if stream == self._last:
            return
        if not captured:
            current = self._stream(stream)
            if self._last is not None:
                current.wait_stream(self._stream(self._last))
            for tensor in memory():
                tensor.record_stream(current)
        self._last = stream

    def _stream(self, handle: int) -> torch.cuda.Stream:
        return torch.cuda.ExternalStream(handle, self._device) if handle else torch.cuda.default_stream(self._device)
