"""What bridge.compile returns and bridge.load reads."""

import functools
import os
from collections import Counter
from typing import Any

from bridge.structure import Structure
from bridge.tensorrt.engine_file import EngineFile, OutputSpec, TensorSpec


class CompiledModule:
    """One engine, called like the model that it was compiled from.

    The engine is loaded onto the GPU by the first call; until then, and without a GPU, everything else works.

    Raises:
        EngineError: from a call, when the engine cannot be used here.
        EngineInputError: from a call, for arguments that the engine does not take.
    """

    def __init__(self, file: EngineFile) -> None:
        self.file = file

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result: the structure of the original, with tensors on the inputs' GPU."""
        inputs = self._structure.flatten(args, kwargs)
        return self._structure.unflatten(inputs, self._runtime(*inputs))

    def __repr__(self) -> str:
        plugins = ", ".join(f"{count} {name}" for name, count in self.plugin_counts().items()) or "none"
        return (
            f"CompiledModule({self.file.metadata.get('model')}, {self.file.target}, {len(self.engine):,} bytes, "
            f"{len(self.layers)} layers, plugins: {plugins})"
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The engine's inputs: name, dtype, and the least, tuned and greatest shape."""
        return self.file.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The engine's outputs: name, dtype, and shape with -1 for what depends on the inputs."""
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
        return Counter(layer["op"] for layer in self.layers if layer.get("op"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the engine and all that is known of it to one file, for `bridge.load`."""
        self.file.save(path)

    def explain(self) -> str:
        """What is in the engine, for reading."""
        from bridge.explain import explain

        return explain(self.file)

    @functools.cached_property
    def _structure(self) -> Structure:
        return Structure.of_file(self.file)

    @functools.cached_property
    def _runtime(self) -> Any:
        from bridge.tensorrt.engine import Engine

        return Engine(self.file)


def load(path: str | os.PathLike[str]) -> CompiledModule:
    """Reads what CompiledModule.save wrote. EngineFileError: it is no such file, or is damaged."""
    return CompiledModule(EngineFile.load(path))
