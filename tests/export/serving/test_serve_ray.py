"""The serving logic of examples/serve_ray, on a Ray cluster of this machine, without a GPU: a stand-in for the engine
doubles its input, see ray_application.py. What an engine computes and how fast is tested on GPUs."""

import io
import os
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import ray_cluster

pytestmark = pytest.mark.skipif(ray_cluster.missing() is not None, reason=str(ray_cluster.missing()))


def ask(url, **arrays):
    """The status of the answer, and its arrays or text."""
    return post(url, archive(numpy.savez, **arrays))


def post(url, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as response:
            return response.status, dict(numpy.load(io.BytesIO(response.read())))
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """One replica at first, two where 8 requests are under way; 24 wait."""
    log = tmp_path_factory.mktemp("ray") / "log"
    with ray_cluster.serving(log, replicas=2, ongoing=8, queue=24) as address:
        yield address


def rows(seed):
    return numpy.random.default_rng(seed).random((1 + seed % 4, 3), dtype=numpy.float32)


def test_each_request_gets_its_own_rows_or_error(url):
    def check(seed):
        x = rows(seed)
        if seed % 4 == 3:
            status, text = ask(url, x=numpy.zeros((2, 4), numpy.float32))
            assert status == 400 and "input x has shape (" in text
            return
        status, arrays = ask(url, x=x)
        assert status == 200
        numpy.testing.assert_array_equal(arrays["y"], 2 * x)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(24)))


def archive(save, *arrays, **named):
    body = io.BytesIO()
    save(body, *arrays, **named)
    return body.getvalue()


BODIES = {
    "nothing": b"",
    "text": b"no arrays",
    "one array": archive(numpy.save, numpy.ones(3)),
    "a part": archive(numpy.savez, x=numpy.ones((4, 3)))[:100],
    "Python objects": archive(numpy.savez, x=numpy.array([{}], dtype=object)),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_no_arrays(url, body):
    status, said = post(url, body)
    assert status == 400 and "the body is not what numpy.savez writes" in said


def test_arrays_whose_rows_differ(url):
    status, said = ask(url, x=rows(1), z=rows(2))
    assert status == 400 and "the same number of rows" in said
    status, said = ask(url, x=numpy.zeros((65, 3), numpy.float32))
    assert status == 400 and "at most 64" in said


def test_the_load_test_reports_what_it_saw(url, monkeypatch):
    monkeypatch.syspath_prepend(str(ray_cluster.EXAMPLE))
    import load_test

    figures = load_test.measure(url, load_test.body_of(["x:2x3:float32"]), clients=4, requests=12)
    assert figures["status_200"] == 12 and 0 < figures["p50_ms"] <= figures["p99_ms"]
    refused = load_test.measure(url, load_test.body_of(["x:2x4:float32"]), clients=2, requests=2)
    assert refused["status_400"] == 2 and refused["requests_per_second"] == 0


def test_more_requests_than_may_wait_are_refused(url):
    """None is lost: each is answered, or told to come back. Afterwards the server answers as before."""
    with ThreadPoolExecutor(120) as pool:
        answers = list(pool.map(lambda seed: ask(url, x=rows(seed)), range(240)))
    texts = {answer for status, answer in answers if status not in (200, 503)}
    assert {status for status, _ in answers} == {200, 503}, texts
    assert ask(url, x=rows(0))[0] == 200


def test_no_request_is_lost_when_a_replica_is_killed(url):
    """Under load a second replica starts. One is killed with requests under way; a new one takes its place."""
    processes, killed, lost = set(), [], []
    deadline = time.monotonic() + 90

    def client(number):
        seed = number
        while time.monotonic() < deadline and not (killed and time.monotonic() > killed[0] + 5):
            x = rows(seed)
            status, arrays = ask(url, x=x)
            if status != 200 or not (arrays["y"] == 2 * x).all():
                lost.append((status, arrays))
                continue
            process = int(arrays["process"][0, 0])
            processes.add(process)
            if number == 0 and len(processes) == 2 and not killed:
                os.kill(process, signal.SIGKILL)
                killed.append(time.monotonic())
            seed += 12

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(client, range(12)))
    assert killed, f"no second replica started: {processes}"
    assert not lost and len(processes) >= 2
