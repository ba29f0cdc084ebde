"""GPU times: what is made of the samples, in which order they are taken; on a GPU also the samples."""

import time

import pytest
import torch

from bridge.engine import timing
from bridge.engine.timing import Timing, compare, noise, replayed, time_call, time_loop, time_queued
from bridge.errors import EngineError


def test_a_timing_is_of_sorted_samples():
    found = Timing.of([float(number) for number in reversed(range(1, 41))])
    assert (found.us, found.low, found.high) == (20.5, 5.0, 36.0)
    assert found.spread == pytest.approx(20.5)
    assert Timing.of([3.0, 3.0]) == Timing(3.0, 3.0, 3.0, 0.0)


def test_noise_is_the_spread_but_at_least_two_percent():
    exact, wide = Timing(100.0, 100.0, 100.0, 0.0), Timing(300.0, 290.0, 310.0, 12.0)
    assert noise(exact, wide) == noise(wide, exact) == 6.0
    assert noise(exact, exact) == pytest.approx(2.0)


def test_each_goes_first_as_often(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_elapsed_us", lambda work: work() or float(len(order)))
    works = [lambda name=name: order.append(name) for name in "abc"]
    samples = timing._interleaved_samples(works)
    rounds = ["".join(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert rounds[:4] == ["abc", "bca", "cab", "abc"] and {len(taken) for taken in samples} == {41}
    assert samples[0][0] == 3 * 5 + 2  # 5 rounds warm up, and the next is c, a, b


class FakeEngine:
    """Whose runs multiply a matrix that often."""

    def __init__(self, products, capturable=True):
        self.products, self.capturable, self.runs = products, capturable, 0

    def new_context(self, **settings):
        return self

    def check_capturable(self, stream):
        if not self.capturable:
            raise EngineError("it is not")

    def __call__(self, x):
        self.runs += 1
        for _ in range(self.products):
            x = x @ x
        return x


@pytest.mark.gpu
@pytest.mark.parametrize("capturable", [True, False])
def test_engines_are_compared(device, capturable):
    few, many = FakeEngine(2), FakeEngine(20, capturable)
    x = torch.zeros(512, 512, device=device)
    short, long = compare([few, many], [x])
    assert 0 < short.low <= short.us <= short.high and 3 * short.us < long.us
    assert (few.runs > 200) == (not capturable)  # a capture calls it for one round, replays not at all


@pytest.mark.gpu
def test_other_calls_are_timed_beside_engines_and_captured_as_they_are(device):
    engine, x = FakeEngine(4), torch.zeros(512, 512, device=device)
    runs = []

    def call():
        runs.append(None)
        y = x
        for _ in range(4):
            y = y @ y

    mine, same = compare([engine], [x], [call])
    assert 0.8 * mine.us < same.us < 1.25 * mine.us
    assert len(runs) < 200  # it was replayed


@pytest.mark.gpu
def test_more_work_takes_longer(device):
    x, y = torch.randn(1 << 22, device=device), torch.randn(1 << 26, device=device)
    small, large = (time_call(torch.relu, [tensor]) for tensor in (x, y))
    assert 0 < small.low <= small.us <= small.high and 3 * small.us < large.us


@pytest.mark.gpu
def test_short_calls_fill_a_replay_however_long_their_launches_take(device, monkeypatch):
    launch, launched = timing._launch, []
    monkeypatch.setattr(timing, "_launch", lambda call, given: launched.append(len(given)) or launch(call, given))

    def launched_slowly(x):
        time.sleep(1e-4)
        return x + 1

    assert 0 < time_call(launched_slowly, [torch.zeros(8, device=device)]).us < 10
    assert launched[-1] == timing._MOST_LAUNCHES


@pytest.mark.gpu
def test_a_loop_has_what_its_caller_waits_for(device):
    """A call that waits for the GPU cannot be captured; it takes no less time than one that does not."""
    x = torch.randn(2048, 2048, device=device)
    alone, waiting = time_loop(lambda: x @ x), time_loop(lambda: (x @ x).sum().item())
    assert 0 < alone.low <= alone.us <= alone.high and waiting.us > alone.us - noise(alone, waiting)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.gpu
def test_a_queue_has_the_times_of_a_graph(device):
    x = torch.randn(1 << 25, device=device)
    # The least of some, as others may use the GPU.
    queued, captured = (
        min(time(torch.relu, [x, x.clone()]).low for _ in range(5)) for time in (time_queued, time_call)
    )
    assert 0.9 * captured < queued < 1.1 * captured
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.gpu
def test_a_replay_shows_what_a_graph_does_not_hold(device):
    x, y = torch.ones(8, device=device), torch.zeros(8, device=device)

    def elsewhere():
        with torch.cuda.stream(torch.cuda.default_stream()):
            y.add_(x)
        return x + y

    y.zero_()
    assert replayed(lambda: x + 1, y.zero_).tolist() == [2.0] * 8
    assert replayed(elsewhere, y.zero_).tolist() == [1.0] * 8


@pytest.mark.gpu
def test_a_call_that_no_graph_takes_leaves_generators_usable():
    x = torch.randn(8, device="cuda")
    with pytest.raises(RuntimeError, match="captur"):
        timing.time_call(lambda x: (x + 1).cpu(), [x])
    torch.cuda.synchronize()
    assert torch.randn(8, device="cuda").isfinite().all()
    assert timing.time_call(lambda x: torch.rand_like(x), [x]).us > 0
