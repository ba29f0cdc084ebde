"""Latencies and throughput of a server of serve_engine.py.

python load_test.py x:1x3x224x224:float32 --clients 64 --requests 2000
"""

import argparse
import io
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy


def body_of(inputs: list[str]) -> bytes:
    """The body of a request with random arrays; an input is NAME:SHAPE:DTYPE, as in "x:1x3x224x224:float32"."""
    generator = numpy.random.default_rng(0)
    arrays = {}
    for text in inputs:
        name, shape, dtype = text.split(":")
        arrays[name] = (generator.random([int(extent) for extent in shape.split("x")]) * 2 - 1).astype(dtype)
    body = io.BytesIO()
    numpy.savez(body, **arrays)
    return body.getvalue()


def ask(url: str, body: bytes) -> tuple[int, float]:
    """The status of the answer, and the seconds that it took."""
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as response:
            response.read()
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
    return status, time.perf_counter() - started


def measure(url: str, body: bytes, clients: int, requests: int) -> dict[str, float]:
    """Of so many requests by so many clients at once: answers by status, requests a second, milliseconds."""
    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda _: ask(url, body), range(requests)))
        seconds = time.perf_counter() - started
    times = [1000 * each for status, each in answers if status == 200]
    percentiles = {f"p{q}_ms": float(numpy.percentile(times, q)) for q in (50, 90, 99)} if times else {}
    statuses = {f"status_{status}": count for status, count in Counter(status for status, _ in answers).items()}
    return {**statuses, "requests_per_second": len(times) / seconds, **percentiles}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="NAME:SHAPE:DTYPE")
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    body = body_of(options.inputs)
    measure(options.url, body, options.clients, options.requests // 10)  # the first runs of a shape are slow
    for name, value in measure(options.url, body, options.clients, options.requests).items():
        print(f"{name:20} {value:.2f}")


if __name__ == "__main__":
    main()
