"""The application of examples/serve_ray on a cluster of this machine, in a process of its own.

    ray_application.py PORT LEAST REPLICAS ONGOING QUEUE [ENGINE]

It says "ready", and ends when its input does. Without an engine PyTorch stands in for one, on the CPU: the model
doubles x, takes its time, and says which process it is.
"""

import os
import sys
import time
from functools import partial

import ray
import torch
from ray import serve
from serve_engine import build

import bridge


class Double:
    """The stand-in. It refuses as an engine does."""

    def __call__(self, x):
        if x.shape[1] != 3:
            raise bridge.errors.EngineInputError(f"input x has shape {tuple(x.shape)}")
        time.sleep(0.05)
        return {"y": 2 * x, "process": torch.full((len(x), 1), os.getpid())}


def main():
    port, least, replicas, ongoing, queue = map(int, sys.argv[1:6])
    engine = sys.argv[6:]
    ray.init(num_cpus=4, include_dashboard=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    load, gpus = (partial(bridge.load, engine[0]), 1) if engine else (Double, 0)
    serve.run(build(load, gpus=gpus, least=least, replicas=replicas, ongoing=ongoing, queue=queue))
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
