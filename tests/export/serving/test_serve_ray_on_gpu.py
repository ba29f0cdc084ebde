"""examples/serve_ray with an engine: right answers, and the throughput of two GPUs beside that of one.

`pytest -s` shows the figures; --junitxml has them, too.
"""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy
import pytest
import ray_cluster
import torch
from test_serve_ray import archive, ask
from torch import nn
from torch.export import Dim

import bridge

pytestmark = [
    pytest.mark.gpu(engines=True),
    pytest.mark.skipif(ray_cluster.missing() is not None, reason=str(ray_cluster.missing())),
]


class Heavy(nn.Module):
    """Some 580 GFLOP a row, for an input of 8 numbers: neither client nor ingress is what limits the throughput."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(120))

    def forward(self, x):
        y = x.repeat(1, 8)[:, :, None, None].expand(-1, -1, 256, 256).contiguous()  # [B, 64, 256, 256]
        for layer in self.layers:
            y = bridge.relu(layer(y), 0.1)
        return y.mean((2, 3))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    torch.manual_seed(0)
    model, x = Heavy().eval().cuda(), torch.randn(2, 8, device="cuda")
    compiled = bridge.compile(model, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
    path = tmp_path_factory.mktemp("engine") / "heavy.engine"
    compiled.save(path)
    return path


CLIENTS, REQUESTS, ROWS = 256, 1024, 2
X = numpy.random.default_rng(0).random((ROWS, 8), dtype=numpy.float32)


@pytest.fixture
def load_test(monkeypatch):
    """The script of the example."""
    monkeypatch.syspath_prepend(str(ray_cluster.EXAMPLE))
    import load_test

    return load_test


@contextlib.contextmanager
def serving(engine, replicas, log):
    """The address of so many replicas, whose results are the engine's."""
    with ray_cluster.serving(log, least=replicas, replicas=replicas, engine=engine) as url:
        status, arrays = ask(url, x=X)
        expected = bridge.load(engine)(torch.from_numpy(X).cuda()).cpu().numpy()
        assert status == 200, arrays
        numpy.testing.assert_allclose(arrays["output0"], expected, rtol=2e-3, atol=2e-3)
        yield url


def throughput(load_test, url):
    """Latencies and requests a second of clients that ask at once."""
    body = archive(numpy.savez, x=X)
    load_test.measure(url, body, CLIENTS, CLIENTS)
    figures = load_test.measure(url, body, CLIENTS, REQUESTS)
    assert figures["status_200"] == REQUESTS, figures
    return figures


def replicas():
    """The processes of replicas on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::ServeReplica:default:Model"):
                found.append(int(path.parent.name))
    return found


def kill_one_under_load(load_test, url):
    """The figures of a load in whose midst a replica is killed."""

    def kill(process):
        time.sleep(1)
        os.kill(process, signal.SIGKILL)

    process = replicas()[0]
    thread = threading.Thread(target=kill, args=(process,))
    thread.start()
    figures = load_test.measure(url, archive(numpy.savez, x=X), CLIENTS, REQUESTS)
    thread.join()
    assert process not in replicas()
    return figures


def test_one_gpu_and_two(engine, tmp_path, load_test, capsys, record_property):
    """Two have nearly twice the throughput; no request is lost when one of their replicas is killed."""
    found = {}
    with serving(engine, 1, tmp_path / "one") as url:
        found["one"] = throughput(load_test, url)
    if torch.cuda.device_count() > 1:
        with serving(engine, 2, tmp_path / "two") as url:
            found["two"] = throughput(load_test, url)
            found["killed"] = kill_one_under_load(load_test, url)
    for name, value in found.items():
        record_property(f"serve_ray.{name}", json.dumps(value))
    with capsys.disabled():
        print(f"\n{json.dumps(found, indent=1)}")
    if len(found) == 1:
        pytest.skip("the second half needs two GPUs")
    assert found["killed"]["status_200"] == REQUESTS
    assert found["two"]["requests_per_second"] >= 1.8 * found["one"]["requests_per_second"]
