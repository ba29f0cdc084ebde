"""Threads, each with a stream, call two engines for minutes, with and without CUDA graphs.

    python tests/support/soak.py [--minutes 5] [--threads 6]

A wrong result or memory that grows ends it with exit code 1. Needs a GPU that TensorRT runs engines on.
"""

import argparse
import json
import random
import sys
import threading
import time
from pathlib import Path

import torch
from compile_models import BATCH, Attention, Convolutional

import bridge

_TOLERANCE = 4e-3  # of the largest output; float32 products may be TF32
_GROWTH = 64 << 20  # bytes by which the process or the GPU may grow after the first tenth


class Work:
    """One engine, with inputs of several batch sizes and eager's results."""

    def __init__(self, model, cuda_graph):
        self.name = f"{model.__name__}{', CUDA graph' if cuda_graph else ''}"
        module = model().eval().cuda()
        args, shapes = model.example(torch.float32)
        args = tuple(arg.cuda() for arg in args)
        self.engine = bridge.compile(module, args, dynamic_shapes=shapes, cuda_graph=cuda_graph)
        self.inputs = [tuple(_of_batch(arg, batch) for arg in args) for batch in range(1, BATCH.max + 1)]
        with torch.no_grad():
            self.expected = [module(*inputs) for inputs in self.inputs]

    def run(self, choose):
        """Calls it once; returns the error against eager, as a fraction of the largest output."""
        index = choose.randrange(len(self.inputs))
        actual, expected = self.engine(*self.inputs[index]), self.expected[index]
        return float((actual - expected).abs().max() / expected.abs().max())


def _of_batch(example, batch):
    times = -(-batch // example.shape[0])
    return example.repeat(times, *[1] * (example.dim() - 1))[:batch].contiguous()


def memory():
    """(bytes of the process, bytes in use on the GPU)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    free, total = torch.cuda.mem_get_info()
    return pages * 4096, total - free


def soak(works, threads, seconds):
    """Calls the engines for a time; returns the number of calls, the worst error and the memory over time."""
    stop = time.monotonic() + seconds
    counts, worst, errors = [0] * threads, [0.0] * threads, []

    def body(thread):
        choose = random.Random(thread)
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                while time.monotonic() < stop and not errors:
                    worst[thread] = max(worst[thread], choose.choice(works).run(choose))
                    counts[thread] += 1
        except Exception as error:
            errors.append(repr(error))

    running = [threading.Thread(target=body, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    samples = []
    while any(thread.is_alive() for thread in running):
        time.sleep(max(seconds / 50, 0.1))
        samples.append(memory())
    return {"calls": sum(counts), "worst": max(worst), "errors": errors, "memory": samples}


def main():
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--cuda-graphs", choices=("with", "without", "both"), default="both")
    options = parser.parse_args()
    graphs = {"with": (True,), "without": (False,), "both": (False, True)}[options.cuda_graphs]
    works = [Work(model, graph) for model in (Convolutional, Attention) for graph in graphs]
    result = soak(works, options.threads, options.minutes * 60)
    baseline, last = result["memory"][len(result["memory"]) // 10], result.pop("memory")[-1]
    result["grown"] = {"process": last[0] - baseline[0], "gpu": last[1] - baseline[1]}
    result |= {"gpu": torch.cuda.get_device_name(), "threads": options.threads, "minutes": options.minutes}
    accurate = not result["errors"] and result["worst"] < _TOLERANCE
    bounded = all(bytes_more < _GROWTH for bytes_more in result["grown"].values())
    print(json.dumps(result | {"passed": accurate and bounded}))
    return 0 if accurate and bounded else 1


if __name__ == "__main__":
    sys.exit(main())
