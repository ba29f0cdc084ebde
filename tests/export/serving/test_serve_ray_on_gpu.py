"""examples/serve_ray with an engine: right answers, and the throughput of two GPUs beside that of one.

`pytest -s` shows the figures.
"""

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
    """Some 190 GFLOP a row, for an input of 8 numbers: neither client nor ingress is what limits the throughput."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(40))

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


def throughput(engine, replicas, log, monkeypatch):
    """Requests a second of 256 clients, after results were compared with the engine's."""
    monkeypatch.syspath_prepend(str(ray_cluster.EXAMPLE))
    import load_test

    with ray_cluster.serving(log, least=replicas, replicas=replicas, engine=engine) as url:
        x = numpy.random.default_rng(0).random((3, 8), dtype=numpy.float32)
        status, arrays = ask(url, x=x)
        expected = bridge.load(engine)(torch.from_numpy(x).cuda()).cpu().numpy()
        assert status == 200
        numpy.testing.assert_allclose(arrays["output0"], expected, rtol=2e-3, atol=2e-3)
        body = archive(numpy.savez, x=x[:1])
        load_test.measure(url, body, 256, 512)
        figures = load_test.measure(url, body, 256, 4096)
    assert figures["status_200"] == 4096, figures
    return figures


def test_one_gpu_and_two(engine, tmp_path, monkeypatch, capsys):
    one = throughput(engine, 1, tmp_path / "one", monkeypatch)
    with capsys.disabled():
        print(f"\none GPU: {one}")
    if torch.cuda.device_count() < 2:
        pytest.skip("the second half needs two GPUs")
    two = throughput(engine, 2, tmp_path / "two", monkeypatch)
    with capsys.disabled():
        print(f"two GPUs: {two}")
    assert two["requests_per_second"] >= 1.8 * one["requests_per_second"]
