"""Answers the server's requests with an engine: what model.py of a repository calls. It knows nothing of the server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.engine_file.contents import EngineFile
from bridge.errors import BridgeError, EngineError
from bridge.export.triton import batches, tensors
from bridge.export.triton.config import ENGINE, data_type
from bridge.export.triton.tensors import ServedTensor
from bridge.generate.folders import PATH_VARIABLE
from bridge.tensorrt.install.flavour import detect
from bridge.tensorrt.run.engine import Engine, check_compatible
from bridge.tensorrt.run.input_check import InputCheck

GENERATED = "generated"
"""The folder with libraries of generated plugins, in a version's folder."""

Answer = list[Tensor] | BridgeError
"""The results of a request, one for each output, or why there are none."""


class Service:
    """One instance of a served model.

    An instance on a GPU has an engine and a CUDA stream of its own. An instance on a CPU answers every request with an
    error; it checks requests and configuration as the others do.

    Args:
        folder: of the model's version, with the engine file.
        gpu: its index, or None: the instance is on a CPU.
        config: of the model, as the server knows it.
    Raises:
        EngineFileError: the engine file is missing or damaged.
        EngineError: the engine cannot be used here, or the configuration is that of another one.
    """

    def __init__(self, folder: Path, gpu: int | None, config: Mapping[str, Any]) -> None:
        _add_generated(folder / GENERATED)
        self._file = EngineFile.load(folder / ENGINE)
        check_compatible(self._file, detect())
        self._most_rows = int(config["max_batch_size"])
        self._pads = self._most_rows > 0 and "dynamic_batching" in config  # which says that rows are independent
        self.inputs = [spec.name for spec in self._file.inputs]
        self.outputs = tensors.results(self._file, self._most_rows > 0)
        _check(config, tensors.inputs(self._file), self.outputs)
        _check_rows(self._file, self._most_rows)
        self._check = InputCheck(self._file.inputs, torch.device("meta"))  # requests may be in any memory
        self._runner = runner_for(self._file, gpu)

    def answer(self, requests: Sequence[Sequence[Tensor]]) -> list[Answer]:
        """The answers to requests, each with the engine's inputs in order. Rows of several requests run together."""
        requests = [self._reshaped(request) for request in requests]
        answers: dict[int, Answer] = {}
        for index, request in enumerate(requests):
            if (error := self._refusal(request)) is not None:
                answers[index] = error
        accepted = [index for index in range(len(requests)) if index not in answers]
        for group in self._groups([requests[index] for index in accepted]):
            indices = [accepted[each] for each in group]
            answers.update(zip(indices, self._answer([requests[index] for index in indices]), strict=True))
        return [answers[index] for index in range(len(requests))]

    def _reshaped(self, request: Sequence[Tensor]) -> list[Tensor]:
        """The inputs of a request, in which tensors without dimensions are such again; see config.py."""
        pairs = zip(request, self._file.inputs, strict=True)
        return [tensor if spec.min or tensor.shape != (1,) else tensor.reshape(()) for tensor, spec in pairs]

    def _refusal(self, request: Sequence[Tensor]) -> BridgeError | None:
        try:
            self._check.check([tensor.to("meta") for tensor in request])
        except BridgeError as error:
            return error
        return None

    def _groups(self, requests: Sequence[Sequence[Tensor]]) -> list[list[int]]:
        if not self._most_rows:
            return [[index] for index in range(len(requests))]
        shapes = [tuple(tuple(tensor.shape) for tensor in request) for request in requests]
        return list(batches.grouped(shapes, batches.largest(self._file)))

    def _answer(self, requests: Sequence[Sequence[Tensor]]) -> list[Answer]:
        try:
            return list(self._run(requests))
        except BridgeError as error:
            return [error] * len(requests)
        except RuntimeError as error:  # of torch: out of memory, or what CUDA says
            return [EngineError(f"the engine failed: {error}")] * len(requests)

    def _run(self, requests: Sequence[Sequence[Tensor]]) -> list[Answer]:
        if self._runner is None:
            raise EngineError(
                "this instance is on a CPU, as config.pbtxt says (KIND_CPU), and an engine runs on a GPU: "
                f"serve it as KIND_GPU; it was built for {self._file.target}"
            )
        columns = list(zip(*requests, strict=True))
        if not self._most_rows:
            return [self._results(*self._runner(columns, None))]
        rows = [request[0].shape[0] for request in requests]
        most = self._most_rows
        inputs, outputs = self._runner(columns, batches.padded(sum(rows), most) if self._pads else sum(rows))
        parts = zip(*(tensor[: sum(rows)].split(rows) for tensor in (*inputs, *outputs)), strict=True)
        return [self._results(part[: len(inputs)], part[len(inputs) :]) for part in parts]

    def _results(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
        shape = (inputs[0].shape[0], 1) if self._most_rows else (1,)
        results = [_result(tensor, inputs, outputs, shape) for tensor in self.outputs]
        return [result if result.dim() else result.reshape(1) for result in results]


def runner_for(file: EngineFile, gpu: int | None) -> "Runner | None":
    """What runs the engine; None: the instance is on a CPU."""
    return None if gpu is None else Runner(file, gpu)


class Runner:
    """An engine on one GPU, with a stream of its own."""

    def __init__(self, file: EngineFile, gpu: int) -> None:
        self._engine = Engine(file, gpu)
        self._stream = torch.cuda.Stream(gpu)

    def __call__(
        self, columns: Sequence[Sequence[Tensor]], rows: int | None
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Inputs and outputs of a run; each column has one input of every request, as `joined` takes it."""
        device = self._engine.device
        with torch.cuda.device(device), torch.cuda.stream(self._stream):
            inputs = [joined(column, device, rows) for column in columns]
            outputs = self._engine(*inputs)
            self._stream.synchronize()  # the server reads outputs on a stream that knows nothing of this one
        return inputs, outputs


def joined(column: Sequence[Tensor], device: torch.device, rows: int | None) -> Tensor:
    """One input of all requests, on the GPU, copied there once; a single request's own tensor if it is there.

    rows: of the result, None where inputs have none; the last row stands for those that no request has.
    """
    counts = [tensor.shape[0] for tensor in column] if rows is not None else []
    if len(column) == 1 and sum(counts) == (rows or 0):
        return column[0].to(device, non_blocking=True)
    joined = torch.empty((rows or 0, *column[0].shape[1:]), dtype=column[0].dtype, device=device)
    *parts, rest = joined.split([*counts, joined.shape[0] - sum(counts)])
    for part, tensor in zip(parts, column, strict=True):
        part.copy_(tensor, non_blocking=True)
    if rest.shape[0]:
        rest.copy_(joined[sum(counts) - 1 : sum(counts)].expand_as(rest))
    return joined


def _result(
    tensor: ServedTensor, inputs: Sequence[Tensor], outputs: Sequence[Tensor], literal_shape: tuple[int, ...]
) -> Tensor:
    if isinstance(tensor.source, int):
        return outputs[tensor.source]
    if "input" in tensor.source:
        return inputs[tensor.source["input"]]
    literal = tensor.source["literal"]
    return torch.full(literal_shape, literal, dtype=torch.float64 if isinstance(literal, float) else None)


def _add_generated(folder: Path) -> None:
    """Makes the repository's libraries of generated plugins known to this process, before all others."""
    known = os.environ.get(PATH_VARIABLE, "")
    if folder.is_dir() and str(folder) not in known.split(os.pathsep):
        os.environ[PATH_VARIABLE] = os.pathsep.join(filter(None, [str(folder), known]))


def _check(config: Mapping[str, Any], inputs: Sequence[ServedTensor], outputs: Sequence[ServedTensor]) -> None:
    """EngineError: names or data types of the configuration are not the engine's."""
    for kind, served in (("input", inputs), ("output", outputs)):
        described = {row["name"]: row["data_type"] for row in config[kind]}
        expected = {tensor.name: str(data_type(tensor.dtype)) for tensor in served}
        if described != expected:
            raise EngineError(
                f"config.pbtxt has the {kind}s {described}, but the engine {expected}: export the engine again"
            )


def _check_rows(file: EngineFile, most: int) -> None:
    """EngineError: the configuration joins requests that the engine does not take together."""
    if not most:
        return
    if reason := batches.refusal(file):
        raise EngineError(f"config.pbtxt has max_batch_size {most}, but {reason}: set it to 0, or {batches.REMEDY}")
    if most > batches.largest(file):
        raise EngineError(
            f"config.pbtxt has max_batch_size {most}; the engine takes at most {batches.largest(file)} rows"
        )
