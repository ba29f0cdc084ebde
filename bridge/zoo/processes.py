"""The processes that measure models: one that measures has the machine to itself, while the others are stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

_SETTLED = 0.1  # seconds until the GPU has ended what stopped processes launched


class Processes:
    """Those of a run. The last argument of each is the descriptor for its measuring_lock.MeasuringLock."""

    def __init__(self) -> None:
        self.stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._measuring: subprocess.Popen[bytes] | None = None
        self._change = threading.RLock()  # of what runs and measures; a signal's handler comes in between
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def one(self, command: Sequence[str], output: IO[bytes], environ: Mapping[str, str]) -> Iterator[Any]:
        """A process, which is killed at the end with its own children."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environ,
                    pass_fds=[theirs.fileno()],
                )
            turns = threading.Thread(target=self._give_turns, args=(process, ours), daemon=True)
            try:
                self._begun(process)
                turns.start()
                yield process
            finally:
                with self._change:
                    self._running.discard(process)
                _signal_group(process, signal.SIGKILL)
                process.wait()
                ours.shutdown(socket.SHUT_RDWR)
                turns.join()

    def stop(self, *_: object) -> None:
        """Kills them all; none is to begin after this."""
        self.stopped = True
        for process in tuple(self._running):
            _signal_group(process, signal.SIGKILL)

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """What ends the run, as `timeout` and job schedulers do it, leaves what was measured before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self.stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _begun(self, process: subprocess.Popen[bytes]) -> None:
        with self._change:
            self._running.add(process)
            if self.stopped:  # since this one was about to begin
                _signal_group(process, signal.SIGKILL)
            elif self._measuring is not None:
                _signal_group(process, signal.SIGSTOP)

    def _give_turns(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        """Lets a process measure each time that it asks, until it ends."""
        with contextlib.suppress(OSError):  # it ended between a question and the answer
            while connection.recv(1):
                with self._turn, self._others_stopped(process):
                    time.sleep(_SETTLED)
                    connection.sendall(b"1")
                    connection.recv(1)

    @contextlib.contextmanager
    def _others_stopped(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._change:
            self._measuring = process
            self._signal_others(signal.SIGSTOP)
        try:
            yield
        finally:
            with self._change:
                self._measuring = None
                self._signal_others(signal.SIGCONT)

    def _signal_others(self, number: signal.Signals) -> None:
        for other in self._running - {self._measuring}:
            _signal_group(other, number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals a process and what it started, such as Inductor's compilers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
