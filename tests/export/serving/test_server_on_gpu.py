"""Engines of TensorRT-RTX in a real Triton server, on a GPU: right answers to 64 clients at once, and how fast.

`pytest -s` shows latencies and throughput beside those of the engine, called directly; --junitxml has them, too.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import triton_server
from torch.export import Dim
from torch.utils._pytree import tree_leaves

import bridge
from bridge.doors import model_file
from bridge.engine import latency
from bridge.export.formats import export
from bridge.export.options import Options
from bridge.tensorrt.run.engine import Engine

pytestmark = [
    pytest.mark.gpu(engines=True),
    pytest.mark.skipif(triton_server.missing() is not None, reason=str(triton_server.missing())),
]
PROCESSES, CLIENTS = 8, 64  # of clients; a process has as many as another
SECONDS = 3
INSTANCES = 2  # on each GPU
ROOT = Path(__file__).parents[3]


def deformable_detr():
    """The small one of `bridge zoo`, whose data are float16."""
    path = ROOT / "models/deformable_detr.py"
    flags = "--height 64 --width 96 --layers 1 --decoder-layers 2 --hidden 32 --heads 4 --queries 10 --backbone-width 8"
    model = model_file.load(str(path), [*flags.split(), "--depths", *"1111"])
    return model.model, model.args, model.dynamic_shapes, 1e-2


def triton_op():
    """A user's op for which nobody wrote a plugin."""
    sys.path.insert(0, str(ROOT / "examples/acme_norm"))
    from acme_norm import Mixer

    return Mixer().eval(), (torch.randn(2, 50, 64),), ({0: Dim("batch", min=1, max=64)},), 2e-3


def write_files(compiled, model, args, folder):
    """A file for each client, see triton_load.py. Returns the largest difference of the engine from PyTorch."""
    inputs = [torch.randn(CLIENTS, *arg.shape[1:], dtype=arg.dtype, device=arg.device) for arg in args]
    names = [spec.name for spec in compiled.file.inputs], [spec.name for spec in compiled.file.outputs]
    farthest = 0.0
    for client in range(CLIENTS):
        tensors = [tensor[client : client + 1] for tensor in inputs]
        expected, eager = tree_leaves(compiled(*tensors)), tree_leaves(model(*tensors))
        differences = [(a.float() - b.float()).abs().max().item() for a, b in zip(expected, eager, strict=True)]
        farthest = max(farthest, *differences)
        rows = {f"in:{name}": tensor.cpu().numpy() for name, tensor in zip(names[0], tensors, strict=True)}
        rows |= {f"out:{name}": tensor.cpu().numpy() for name, tensor in zip(names[1], expected, strict=True)}
        numpy.savez(folder / f"{client}.npz", **rows)
    return farthest


def ask(protocol, address, tolerance, folder):
    """The figures of all clients at once, each of whose answers is right."""
    path = os.pathsep.join([str(triton_server.FOLDER / "client"), os.environ.get("PYTHONPATH", "")])
    script = Path(__file__).with_name("triton_load.py")
    command = [sys.executable, script, protocol, address, str(SECONDS), str(tolerance)]
    files = sorted(folder.glob("*.npz"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(PROCESSES):
            clients = [*command, *files[number::PROCESSES]]
            process = subprocess.Popen(clients, env=os.environ | {"PYTHONPATH": path}, **pipes)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout.readline() == "ready\n", f"a client of {protocol} failed: see its traceback"
        for process in processes:
            print(file=process.stdin, flush=True)
        times = [json.loads(process.communicate()[0] or "null") for process in processes]
    assert None not in times, f"a client of {protocol} got a wrong answer: see its traceback"
    return figures([each for some in times for each in some], SECONDS)


def figures(times, seconds, rows=1):
    """times: milliseconds of each request or call; rows: of each."""
    p50, p99 = (round(float(numpy.percentile(times, q)), 3) for q in (50, 99))
    return {"p50_ms": p50, "p99_ms": p99, "rows_per_second": round(rows * len(times) / seconds)}


def direct(compiled, args, rows, threads):
    """Figures of calls of the engine itself, from inputs to outputs in the memory of the host."""
    inputs = [torch.cat([arg[:1]] * rows).cpu() for arg in args]
    measured = latency.measure(Engine(compiled.file), inputs, iterations=500, clients=threads)
    return figures([sample.end_to_end / 1000 for sample in measured.samples], measured.seconds, rows)


@pytest.mark.parametrize("make", [deformable_detr, triton_op])
def test_64_clients(make, tmp_path, capsys, record_property):
    torch.manual_seed(0)
    model, args, dynamic, tolerance = make()
    model, args = model.cuda(), tuple(arg.cuda() for arg in args)
    compiled = bridge.compile(model, args, dynamic_shapes=dynamic)
    most = compiled.file.inputs[0].max[0]
    options = Options("net", INSTANCES, dynamic_batching=True, warm_up=True)
    export(compiled.file, tmp_path / "models", "triton", options=options)
    with torch.no_grad():
        found = {"farthest_from_pytorch": write_files(compiled, model, args, tmp_path)}
    with triton_server.serving(tmp_path / "models", tmp_path / "log") as server:
        for protocol in ("http", "grpc"):
            found[f"triton_{protocol}"] = ask(protocol, getattr(server, protocol), tolerance, tmp_path)
    for rows in (1, most):
        for threads in (1, INSTANCES):
            found[f"engine_{rows}_rows_{threads}_threads"] = direct(compiled, args, rows, threads)
    for name, value in found.items():
        record_property(f"{make.__name__}.{name}", json.dumps(value))
    with capsys.disabled():
        print(f"\n{make.__name__}: {json.dumps(found, indent=1)}")
    assert found["farthest_from_pytorch"] < 0.05
