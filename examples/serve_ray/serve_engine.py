"""Serves an engine on every GPU of a Ray cluster.

    serve run serve_engine:application engine=/models/net.engine replicas=2

A request is a POST, whose body is what numpy.savez writes: an array for each argument of the model, with its rows
first. The answer is the same for its results. The rows of several requests run together: no row may depend on another.

    400  the model does not take the arrays, and why
    503  as many requests wait as may; ask again later
"""

import asyncio
import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy
import torch
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

import bridge
from bridge.export.triton.batches import padded

ROWS = 64  # of one run, at most; the engine's profile must have as many
RETRY = 0.005  # seconds until a request that finds all replicas busy tries again; Ray's half a second leaves them idle
ATTEMPTS = 5  # of a request whose replica dies

Arrays = dict[str, numpy.ndarray]
Answer = Arrays | str  # or why there are no results


class Model:
    """The engine on one GPU. load: returns the model."""

    def __init__(self, load: Callable[[], Callable[..., Any]]) -> None:
        self._model = load()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._thread = ThreadPoolExecutor(max_workers=1)  # an engine keeps execution contexts for each thread
        self._waiting: deque[tuple[Arrays, asyncio.Future[Answer]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def infer(self, arrays: Arrays) -> Answer:
        """The answer to a request. Those that come while the engine runs are its next run.

        Ray's own `serve.batch` closes a batch when its time is over, also where the engine is busy then.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((arrays, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_waiting())
        return await answer

    async def _answer_waiting(self) -> None:
        """Until none waits; the event loop stays free meanwhile."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), ROWS))]
            requests = [arrays for arrays, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)
            except Exception as error:  # of any kind: each of those that wait must hear of it
                results = [error] * len(batch)
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():  # the client has gone
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _answer(self, requests: list[Arrays]) -> list[Answer]:
        answers: list[Answer] = ["arrays must have the same number of rows, at most " + str(ROWS)] * len(requests)
        for group in groups(requests):
            for index, answer in zip(group, self._run([requests[index] for index in group]), strict=True):
                answers[index] = answer
        return answers

    def _run(self, requests: list[Arrays]) -> list[Answer]:
        """Requests of one kind: what the model says against one holds for all."""
        rows = [rows_of(arrays) for arrays in requests]
        more = padded(sum(rows), ROWS) - sum(rows)  # rows that run for nothing, so that few shapes recur
        joined = {
            name: numpy.concatenate([arrays[name] for arrays in requests] + more * [requests[-1][name][-1:]])
            for name in requests[0]
        }
        try:
            results = self._model(**{name: torch.from_numpy(array).to(self._device) for name, array in joined.items()})
        except bridge.BridgeError as error:
            return [str(error)] * len(requests)
        parts = {name: tensor[: sum(rows)].cpu().split(rows) for name, tensor in named(results)}
        return [{name: split[index].numpy() for name, split in parts.items()} for index in range(len(requests))]


def rows_of(arrays: Arrays) -> int:
    """The rows of a request; 0: its arrays have none in common, or too many."""
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    rows = counts.pop() if len(counts) == 1 else 0
    return rows if rows <= ROWS else 0


def groups(requests: list[Arrays]) -> Iterator[list[int]]:
    """The indices of requests that run together: with the same names, types and shapes, and at most ROWS rows."""
    waiting: dict[Any, list[int]] = {}
    for index, arrays in enumerate(requests):
        if not rows_of(arrays):
            continue
        kind = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(arrays.items()))
        group = waiting.setdefault(kind, [])
        if sum(rows_of(requests[each]) for each in group) + rows_of(arrays) > ROWS:
            yield waiting[kind]
            group = waiting[kind] = []
        group.append(index)
    yield from waiting.values()


def named(results: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a result that is a tensor, or a dict or sequence of tensors."""
    if isinstance(results, torch.Tensor):
        yield "output0", results
    elif isinstance(results, dict):
        yield from results.items()
    else:
        yield from ((f"output{index}", tensor) for index, tensor in enumerate(results))


class Ingress:
    """Takes requests of clients to a replica of the model, and to another one where it dies."""

    def __init__(self, model: DeploymentHandle) -> None:
        self._model = model

    async def __call__(self, request: Request) -> Response:
        """The answer to one request."""
        try:
            arrays = arrays_of(await request.body())
        except ValueError as error:
            return Response(str(error), 400)
        for _ in range(ATTEMPTS):
            try:
                return _response(await self._model.infer.remote(arrays))
            except RayActorError:  # the replica is gone; a request changes nothing, so it can be asked twice
                continue
            except BackPressureError as error:
                return Response(str(error), 503, {"Retry-After": "1"})
        return Response(f"{ATTEMPTS} replicas died, one after the other", 500)


def arrays_of(body: bytes) -> Arrays:
    """The arrays in the body of a request. ValueError: it has none."""
    try:
        file = numpy.load(io.BytesIO(body), allow_pickle=False)
        return {name: file[name] for name in file.files}
    except Exception as error:  # of NumPy, and of the archives that it reads
        raise ValueError(f"the body is not what numpy.savez writes: {error}") from error


def _response(answer: Answer) -> Response:
    if isinstance(answer, str):
        return Response(answer, 400)
    body = io.BytesIO()
    numpy.savez(body, **answer)
    return Response(body.getvalue(), media_type="application/octet-stream")


def build(
    load: Callable[[], Any],
    *,
    gpus: int = 1,
    least: int = 1,
    replicas: int = 1,
    ongoing: int = 2 * ROWS,
    queue: int = 1024,
) -> Any:
    """The application.

    load: returns the model. gpus: of one replica. least, replicas: as many as requests need, within these bounds.
    ongoing: requests that a replica has at a time; by default a full run, and the next one that fills meanwhile.
    queue: requests that may wait for a replica, in each of as many ingresses as replicas; more are refused.
    """

    def scaling(requests: float) -> dict[str, Any]:
        """Of a deployment: a replica for so many requests at a time."""
        return {
            "min_replicas": least,
            "max_replicas": replicas,
            "target_ongoing_requests": requests,
            "upscale_delay_s": 3,
        }

    model = serve.deployment(Model).options(
        ray_actor_options={"num_gpus": gpus},
        autoscaling_config=scaling(ongoing / 2),
        max_ongoing_requests=ongoing,
        max_queued_requests=queue,
        health_check_period_s=2,
        request_router_config=RequestRouterConfig(initial_backoff_s=RETRY, max_backoff_s=RETRY),
    )
    ingress = serve.deployment(Ingress).options(
        autoscaling_config=scaling(ongoing),  # one answers some 200 requests a second
        max_ongoing_requests=2 * (queue + replicas * ongoing),
    )
    return ingress.bind(model.bind(load))


class Arguments(BaseModel):
    """What `serve run` is told."""

    engine: str
    replicas: int = 1


def application(arguments: Arguments) -> Any:
    """The application of an engine file."""
    return build(partial(bridge.load, arguments.engine), replicas=arguments.replicas)
