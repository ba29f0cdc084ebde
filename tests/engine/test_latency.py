"""Times of single calls: their percentiles, and clients that call at the same time."""

import contextlib
import threading
import types

import pytest
import torch

from bridge.engine import latency
from bridge.engine.latency import Measurement, Percentiles, Sample, call_from
from bridge.errors import EngineError


def test_percentiles_are_samples():
    found = Percentiles.of([float(number) for number in reversed(range(1, 201))])
    assert found == Percentiles(min=1.0, median=100.5, mean=100.5, p90=180.0, p95=190.0, p99=198.0, max=200.0)
    assert Percentiles.of([7.0]) == Percentiles(*[7.0] * 7)
    few = Percentiles.of([1.0, 2.0, 30.0])
    assert (few.median, few.mean, few.p90, few.p99) == (2.0, 11.0, 30.0, 30.0)


def test_a_measurement_has_the_percentiles_of_every_time():
    measured = Measurement((Sample(1.0, 2.0, 3.0), Sample(3.0, 2.0, 5.0)), seconds=0.5)
    found = measured.percentiles()
    assert measured.throughput == 4.0
    assert {name: each.mean for name, each in found.items()} == {"gpu": 2.0, "enqueue": 2.0, "end_to_end": 4.0}


@pytest.mark.parametrize(("clients", "iterations"), [(1, 1), (1, 7), (3, 100), (5, 2)])
def test_clients_make_so_many_calls_together(clients, iterations):
    connected = []

    def connect():
        connected.append(threading.get_ident())
        return lambda: Sample(1.0, 1.0, 1.0)

    measured = call_from(clients, connect, iterations)
    assert len(measured.samples) == iterations and measured.seconds > 0
    assert len(connected) == clients and threading.get_ident() not in connected


def test_no_client_begins_before_all_are_connected():
    connected, seen = [], []

    def connect():
        connected.append(None)

        def call():
            seen.append(len(connected))
            return Sample(1.0, 1.0, 1.0)

        return call

    call_from(4, connect, 20)
    assert seen == [4] * 20


def test_a_client_that_cannot_connect_ends_all():
    turn = iter(range(3))

    def connect():
        if next(turn) == 1:
            raise EngineError("no context")
        return lambda: Sample(1.0, 1.0, 1.0)

    with pytest.raises(EngineError, match="no context"):
        call_from(3, connect, 1_000_000)


def test_a_call_that_fails_ends_all():
    turn = iter(range(1_000_000))

    def call():
        if next(turn) == 50:
            raise EngineError("did not run")
        return Sample(1.0, 1.0, 1.0)

    with pytest.raises(EngineError, match="did not run"):
        call_from(2, lambda: call, 1_000_000)
    assert next(turn) < 1_000_000


class Clock:
    """Of events without a GPU: each is a millisecond after the one before."""

    now = 0

    def record(self):
        Clock.now += 1
        self.at = Clock.now

    def elapsed_time(self, other):
        return float(other.at - self.at)


@pytest.fixture
def no_gpu(monkeypatch):
    """What a client uses of CUDA, on the CPU."""
    cuda = types.SimpleNamespace(
        device=lambda device: contextlib.nullcontext(),
        stream=lambda stream: contextlib.nullcontext(),
        Stream=lambda: types.SimpleNamespace(synchronize=lambda: None),
        Event=lambda enable_timing: Clock(),
    )
    fake = types.SimpleNamespace(cuda=cuda, empty=lambda *shape, pin_memory=False, **rest: torch.empty(*shape, **rest))
    monkeypatch.setattr(latency, "torch", fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())


@pytest.mark.parametrize(("warm_up", "warm"), [(3, 3), (0, 1)])
def test_a_client_warms_up_and_copies_inputs_before_each_call(no_gpu, warm_up, warm):
    seen = []

    class Doubles:
        device = torch.device("cpu")

        def __call__(self, x, empty):
            seen.append(x.tolist())
            y = x * 2
            x.zero_()  # the next call has the inputs again
            return y, empty

    inputs = [torch.tensor([1.0, 2.0]), torch.empty(0, 3)]
    measured = latency.measure(Doubles(), inputs, iterations=5, warm_up=warm_up, clients=2)
    assert seen == [[1.0, 2.0]] * (2 * warm + 5) and inputs[0].tolist() == [1.0, 2.0]
    assert all(sample.gpu >= 1000 and 0 < sample.enqueue < sample.end_to_end for sample in measured.samples)


class Squares:
    """Called like an engine: multiplies a matrix by itself, so often."""

    def __init__(self, device, products):
        self.device, self.products = device, products

    def __call__(self, x):
        for _ in range(self.products):
            x = x @ x
        return (x,)


@pytest.mark.gpu
@pytest.mark.parametrize("clients", [1, 3])
def test_a_run_takes_longer_on_the_gpu_with_more_work(device, clients):
    x = torch.zeros(512, 512)
    short, long = (
        latency.measure(Squares(device, products), [x], 40, clients=clients).percentiles() for products in (4, 200)
    )
    assert short["gpu"].min > 0 and 3 * short["gpu"].median < long["gpu"].median
    assert long["gpu"].median < long["end_to_end"].median
