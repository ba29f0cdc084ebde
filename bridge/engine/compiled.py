"""Compiled modules: what bridge.compile returns and bridge.load reads."""

import functools
import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.base import log
from bridge.base.text import printable
from bridge.engine.call_structure import CallStructure
from bridge.engine.node_table import plugin_counts
from bridge.engine_file.contents import EngineFile, OutputSpec, TensorSpec
from bridge.export.formats import Options, export


class CompiledModule:
    """One engine, called like the model that it was compiled from.

    The first call on a GPU loads the engine there; everything else works without a GPU. Any number of threads may call
    it, each on its own streams and GPUs.

    Args:
        from_cache: whether the engine came from the cache.
        cuda_graph: calls replay a CUDA graph, one for each of the 16 combinations of input shapes that were used last.
            The first call with other shapes records one, which takes a few times as long as a call.
        static_outputs: a call returns the same tensors as the one before with these shapes, overwritten, instead of new
            ones; each thread has its own.
    Raises:
        EngineError: from a call, when the engine cannot be used here.
        EngineInputError: from a call, for arguments that the engine does not take.
    """

    def __init__(
        self, file: EngineFile, *, from_cache: bool = False, cuda_graph: bool = False, static_outputs: bool = False
    ) -> None:
        self.file = file
        self.from_cache = from_cache
        self.cuda_graph = cuda_graph
        self.static_outputs = static_outputs
        self._engines: dict[int | None, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result: the structure of the original, with tensors on the inputs' GPU."""
        structure = self._structure
        inputs = args if structure.is_flat_call(args, kwargs) else structure.flatten(args, kwargs)
        device = _device(inputs)
        engine = self._engines.get(device) or self._load(device)
        return structure.unflatten(inputs, engine(*inputs))

    def __reduce__(self) -> Any:
        raise TypeError(
            "an engine cannot be pickled, and torch.save pickles: write it with compiled.save(path) and read it with"
            " bridge.load(path)"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledModule":
        return CompiledModule(
            self.file, from_cache=self.from_cache, cuda_graph=self.cuda_graph, static_outputs=self.static_outputs
        )

    def __repr__(self) -> str:
        plugins = ", ".join(f"{count} {name}" for name, count in self.plugin_counts().items()) or "none"
        model = printable(str(self.file.metadata.get("model")))
        return (
            f"CompiledModule({model}, {self.file.target}, {len(self.engine):,} bytes, "
            f"{len(self.layers)} layers, plugins: {plugins})"
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The engine's inputs, each with its name, dtype, and the least, tuned and greatest shape."""
        return self.file.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The engine's outputs, each with its name, dtype, and shape with -1 for what depends on the inputs."""
        return self.file.outputs

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The network's layers as they were just before the build."""
        return self.file.layers

    @property
    def engine(self) -> bytes:
        """The engine as TensorRT serialised it."""
        return self.file.engine

    def plugin_counts(self) -> Counter[str]:
        """How many plugin layers the engine has of each bridge op."""
        return plugin_counts(self.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the engine and its description to one file, for `bridge.load`."""
        self.file.save(path)

    def export(
        self, path: str | os.PathLike[str], to: str = "folder", *, force: bool = False, options: Options | None = None
    ) -> list[Path]:
        """Writes a folder for machines without bridge, and returns its files; see `bridge.export.formats.export`.

        to: "plan", the engine as TensorRT serialised it; "folder", the plan with all that running it takes; "triton", a
        model repository of Triton Inference Server.
        """
        return export(self.file, path, to, force=force, options=options)

    def explain(self, *, nodes: bool = False, layers: bool = False) -> str:
        """What is in the engine, for reading; `nodes` adds where each node of the graph went, `layers` every layer."""
        from bridge.engine.explain import explain

        return explain(self.file, every_layer=layers, nodes=nodes)

    @functools.cached_property
    def _structure(self) -> CallStructure:
        return CallStructure.of_file(self.file)

    def _load(self, device: int | None) -> Any:
        from bridge.tensorrt.run.engine import Engine

        with self._lock:
            if device not in self._engines:
                with log.step("loading the engine"):
                    engine = Engine(self.file, device, cuda_graph=self.cuda_graph, static_outputs=self.static_outputs)
                self._engines[device] = engine
            return self._engines[device]


def _device(inputs: Sequence[Any]) -> int | None:
    """The GPU that a call runs on: that of its first tensor on one, else the current one; None where there is none."""
    for value in inputs:
        if isinstance(value, Tensor) and value.is_cuda:
            return value.get_device()
    return torch.cuda.current_device() if torch.cuda.is_available() else None


def load(path: str | os.PathLike[str], *, cuda_graph: bool = False, static_outputs: bool = False) -> CompiledModule:
    """Reads what CompiledModule.save wrote; the settings are those of CompiledModule.

    EngineFileError: it is no such file, or is damaged.
    """
    return CompiledModule(EngineFile.load(path), cuda_graph=cuda_graph, static_outputs=static_outputs)
