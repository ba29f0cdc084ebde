"""Clients of a Triton server, in a process without torch: each asks for a while, and compares every answer.

    triton_load.py PROTOCOL ADDRESS SECONDS TOLERANCE FILE...    a client for each file

A file is what numpy.savez wrote: inputs as "in:NAME", the results to expect as "out:NAME". The process says "ready"
when every client has an answer, begins at the next line of its input, and prints the milliseconds of each request but
those of the first second: TensorRT-RTX compiles for the shapes that it meets.
"""

import contextlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy

WARM_UP = 1.0  # seconds


class Client:
    """Asks for the results of one file; belongs to the thread that made it."""

    def __init__(self, protocol: str, address: str, path: str) -> None:
        module = import_module(f"tritonclient.{protocol}")
        patience = {"network_timeout": 120.0, "connection_timeout": 120.0} if protocol == "http" else {}
        self.connection = module.InferenceServerClient(address, **patience)
        arrays = dict(numpy.load(path))
        datatypes = {numpy.dtype("float16"): "FP16", numpy.dtype("float32"): "FP32"}
        self.inputs = []
        for name, array in ((key[3:], array) for key, array in arrays.items() if key.startswith("in:")):
            self.inputs.append(module.InferInput(name, list(array.shape), datatypes[array.dtype]))
            self.inputs[-1].set_data_from_numpy(array)
        self.expected = {key[4:]: array for key, array in arrays.items() if key.startswith("out:")}

    def ask(self, tolerance: float) -> float:
        """The milliseconds of a request. AssertionError: a wrong answer."""
        started = time.perf_counter()
        result = self.connection.infer("net", self.inputs)
        milliseconds = 1000 * (time.perf_counter() - started)
        for name, array in self.expected.items():
            numpy.testing.assert_allclose(result.as_numpy(name), array, rtol=tolerance, atol=tolerance, err_msg=name)
        return milliseconds


def main() -> None:
    """See above."""
    protocol, address, seconds, tolerance, *paths = sys.argv[1:]
    connected, begun = threading.Barrier(len(paths) + 1), threading.Event()

    def work(path: str) -> list[float]:
        times = []
        try:
            client = Client(protocol, address, path)
            with contextlib.closing(client.connection):
                client.ask(float(tolerance))
                connected.wait()
                begun.wait()
                begin = time.perf_counter() + WARM_UP
                while (now := time.perf_counter()) < begin + float(seconds):
                    milliseconds = client.ask(float(tolerance))
                    if now >= begin:
                        times.append(milliseconds)
        except BaseException:
            connected.abort()
            raise
        return times

    with ThreadPoolExecutor(len(paths)) as pool:
        futures = [pool.submit(work, path) for path in paths]
        with contextlib.suppress(threading.BrokenBarrierError):  # of a client that failed: its result says how
            connected.wait()
            print("ready", flush=True)
            sys.stdin.readline()
        begun.set()
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:  # that of the first client, rather than of those that waited for it
            raise min(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError))
        print(json.dumps([each for future in futures for each in future.result()]))


if __name__ == "__main__":
    main()
