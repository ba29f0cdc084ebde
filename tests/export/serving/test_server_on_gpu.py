"""Engines of TensorRT-RTX in a real Triton server, on a GPU: right answers to 64 clients at once, and how fast.

`pytest -s` shows latencies and throughput beside those of the engine, called directly.
"""

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import triton_server
from torch.export import Dim

import bridge
from bridge.doors import model_file
from bridge.engine_file import dtypes
from bridge.engine_file.contents import EngineFile
from bridge.export.formats import export
from bridge.export.options import Options

pytestmark = [
    pytest.mark.gpu(engines=True),
    pytest.mark.skipif(triton_server.missing() is not None, reason=str(triton_server.missing())),
]
CLIENTS, REQUESTS = 64, 20  # each
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def http():
    sys.path.append(str(triton_server.FOLDER / "client"))
    from tritonclient import http

    yield http
    sys.path.remove(str(triton_server.FOLDER / "client"))


def deformable_detr():
    """The small one of `bridge zoo`."""
    path = ROOT / "models/deformable_detr.py"
    flags = "--height 64 --width 96 --layers 1 --decoder-layers 2 --hidden 32 --heads 4 --queries 10 --backbone-width 8"
    model = model_file.load(str(path), [*flags.split(), "--depths", *"1111"])
    return model.model, model.args, model.dynamic_shapes


def triton_op():
    """A user's op for which nobody wrote a plugin."""
    sys.path.insert(0, str(ROOT / "examples/acme_norm"))
    from acme_norm import Mixer

    return Mixer().eval(), (torch.randn(2, 50, 64),), ({0: Dim("batch", min=1, max=64)},)


@dataclass(frozen=True)
class Client:
    """Asks for results of tensors of its own, and compares them with what the engine computes of these alone."""

    http: Any
    address: str
    file: EngineFile
    tensors: list[torch.Tensor]
    expected: list[torch.Tensor]

    def ask(self) -> list[float]:
        """The milliseconds of each request."""
        patience = {"network_timeout": 120.0, "connection_timeout": 120.0}
        with contextlib.closing(self.http.InferenceServerClient(self.address, **patience)) as connection:
            return [self.ask_once(connection) for _ in range(REQUESTS)]

    def ask_once(self, connection) -> float:
        given = []
        for spec, tensor in zip(self.file.inputs, self.tensors, strict=True):
            given.append(self.http.InferInput(spec.name, list(tensor.shape), dtypes.named(spec.dtype).triton))
            given[-1].set_data_from_numpy(tensor.cpu().numpy())
        started = time.perf_counter()
        result = connection.infer("net", given)
        seconds = time.perf_counter() - started
        for spec, leaf in zip(self.file.outputs, self.expected, strict=True):
            actual = torch.from_numpy(result.as_numpy(spec.name).copy())
            torch.testing.assert_close(actual, leaf, rtol=2e-3, atol=2e-3)
        return 1000 * seconds


def figures(times, seconds):
    p50, p99 = (float(numpy.percentile(times, q)) for q in (50, 99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {len(times) / seconds:.0f} requests a second"


def direct(compiled, tensors):
    """Milliseconds of calls of the engine, one after the other."""
    times = []
    for _ in range(200):
        started = time.perf_counter()
        compiled(*tensors)
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started))
    return times


@pytest.mark.parametrize("make", [deformable_detr, triton_op])
def test_64_clients(make, http, tmp_path, capsys):
    model, args, dynamic = make()
    compiled = bridge.compile(model.cuda(), tuple(arg.cuda() for arg in args), dynamic_shapes=dynamic)
    export(compiled.file, tmp_path / "models", "triton", options=Options("net", 2, dynamic_batching=True, warm_up=True))
    with triton_server.serving(tmp_path / "models", tmp_path / "log") as server:
        clients = []
        for _ in range(CLIENTS):
            tensors = [torch.randn_like(arg[:1], device="cuda") for arg in args]
            expected = [leaf.cpu() for leaf in torch.utils._pytree.tree_leaves(compiled(*tensors))]
            clients.append(Client(http, server.http, compiled.file, tensors, expected))
        started = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            times = [each for some in pool.map(Client.ask, clients) for each in some]
        seconds = time.perf_counter() - started
    alone = direct(compiled, clients[0].tensors)
    with capsys.disabled():
        print(f"\n{make.__name__}: Triton, {CLIENTS} clients: {figures(times, seconds)}")
        print(f"{make.__name__}: the engine, one call at a time: {figures(alone, sum(alone) / 1000)}")
