"""The example's op inside engines, on a GPU: at many shapes of its profile, from two streams at once, and replayed."""

import threading

import pytest
import torch
from torch import nn
from torch.export import Dim

import bridge
from bridge.testing import DTYPES, check_error

pytestmark = pytest.mark.gpu(engines=True)
RADII = (3, 4)
# [B, C, H, W]: the ends of the profile, and odd shapes between them.
SHAPES = [(1, 24, 1, 1), (5, 24, 40, 56), (1, 24, 40, 1), (5, 24, 1, 56), (2, 24, 7, 9), (3, 24, 16, 32)]
SHAPES += [(1, 24, 33, 31), (4, 24, 5, 50), (2, 24, 40, 56), (3, 24, 23, 2)]
PROFILE = {0: Dim("batch", min=1, max=5), 2: Dim("height", min=1, max=40), 3: Dim("width", min=1, max=56)}


class Correlation(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op

    def forward(self, f1, f2):
        return self.op(f1, f2, RADII)


def features(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to("cuda", dtype) for _ in range(2)]


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def compiled(acme, request):
    model = Correlation(acme.corr).eval()
    engine = bridge.compile(model, features((2, 24, 16, 24), request.param), dynamic_shapes=(PROFILE, PROFILE))
    assert engine.plugin_counts() == {"acme::corr": 1}
    return engine, request.param


def check(results, inputs, dtype):
    """Both outputs against the reference in float64: at most twice the error of the reference in this dtype."""
    reference = bridge.OPS["acme::corr"].call_reference
    exact, rounded = (reference(*(x.to(wide) for x in inputs), RADII) for wide in (torch.float64, dtype))
    for number, triple in enumerate(zip(exact, rounded, results, strict=True)):
        check_error(f"output {number}, {tuple(inputs[0].shape)}, {dtype}", *triple)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_engines_compute_what_eager_does(compiled, shape):
    engine, dtype = compiled
    inputs = features(shape, dtype)
    check(engine(*inputs), inputs, dtype)


def test_two_streams_run_it_at_once(compiled):
    engine, dtype = compiled
    failures = []

    def work(seed):
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for turn in range(25):
                    inputs = features(SHAPES[(turn + seed) % len(SHAPES)], dtype, seed + turn)
                    results = engine(*inputs)
                    stream.synchronize()
                    check(results, inputs, dtype)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_it_replays_in_a_cuda_graph(compiled):
    engine, dtype = compiled
    replayed = bridge.CompiledModule(engine.file, cuda_graph=True)
    for seed in range(3):
        for shape in SHAPES[1:4]:
            inputs = features(shape, dtype, seed)
            check(replayed(*inputs), inputs, dtype)
