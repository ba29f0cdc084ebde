"""Kernels of an instance, compiled ahead of time for each target, each once however often it is launched.

A configuration of a launch is up to three kernels where some argument is divisible by 16 only "maybe"; see Variants.
They are told apart when they are launched.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.base.locks import held
from bridge.base.log import logger
from bridge.errors import BuildError, UnsupportedOpError
from bridge.generate.native import triton_private
from bridge.generate.native.triton_private import Compiled, Refusal
from bridge.generate.program import Argument, Configuration, Launch

# The most shared memory of a program by compute capability, in bytes: CUDA's programming guide, "Technical
# Specifications per Compute Capability".
_SHARED = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
SHARED_BYTES = {capability: kilobytes << 10 for capability, kilobytes in _SHARED.items()}


@dataclass(frozen=True)
class Source:
    """All that a kernel is compiled from. signature: the type of every parameter by name, "constexpr" for constants."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: frozenset[str]
    options: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> str:
        """The same for sources that compile to the same, in every process."""
        return hashlib.sha256(json.dumps(self.described()).encode()).hexdigest()

    def described(self) -> list[Any]:
        """The source as JSON."""
        constants = [[name, describe_constant(name, value)] for name, value in self.constants]
        options = [[name, describe_constant(name, value)] for name, value in self.options]
        key = triton_private.cache_key(self.kernel)
        return [key, self.signature, constants, sorted(self.divisible), options, triton_private.version()]

    def __str__(self) -> str:
        """Such as "row_norm of norm.py:12"."""
        file, line = triton_private.source_of(self.kernel)
        return f"{triton_private.name_of(self.kernel)} of {file}:{line}"


@dataclass(frozen=True)
class Variants:
    """The sources of a configuration, which are equal where no argument makes a difference.

    divisible: what may be divisible by 16 is; aligned: pointers are, and numbers may not be; general: neither.
    """

    divisible: Source
    aligned: Source
    general: Source

    @property
    def all(self) -> tuple[Source, Source, Source]:
        """The three, the fastest first."""
        return self.divisible, self.aligned, self.general


def variants(launch: Launch, configuration: Configuration) -> Variants:
    """What a configuration of a launch is compiled from."""
    types = {argument.name: argument.type for argument in launch.arguments}
    constants = tuple(sorted((name, triton_private.unwrap(v)) for name, v in configuration.constants.items()))
    known = dict(constants)
    names = triton_private.parameters(launch.kernel)
    kernel = f"kernel {triton_private.name_of(launch.kernel)}"
    if lacking := [name for name in names if name not in types and name not in known]:
        raise UnsupportedOpError(f"{kernel}: a launch gives no {', '.join(lacking)}")
    if unknown := [name for name in (*types, *known) if name not in names]:
        raise UnsupportedOpError(f"{kernel} has no parameter {', '.join(unknown)}")

    def source(pointers: bool, numbers: bool) -> Source:
        def accepts(argument: Argument) -> bool:
            maybe = pointers if argument.type.startswith("*") else numbers
            return argument.divisible == "always" or (maybe and argument.divisible == "maybe")

        return Source(
            kernel=launch.kernel,
            signature=tuple((name, "constexpr" if name in known else types[name]) for name in names),
            constants=constants,
            divisible=frozenset(each.name for each in launch.arguments if accepts(each)),
            options=tuple(sorted(configuration.options.items())),
        )

    return Variants(source(True, True), source(True, False), source(False, False))


def describe_constant(name: str, value: Any) -> Any:
    """A constant as JSON. UnsupportedOpError: a value of its type is not known to be the same in another process."""
    value = triton_private.unwrap(value)
    if triton_private.is_function(value):
        return ["function", triton_private.cache_key(value)]
    if isinstance(value, (tuple, list)):
        return [describe_constant(name, each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)) or triton_private.is_dtype(value):
        return [type(value).__name__, str(value)]
    raise UnsupportedOpError(f"the constant {name} is {value!r}, expected a number, a text, a dtype or a function")


class Library:
    """Kernels by source and target, compiled when they are asked for together."""

    def __init__(self, capabilities: Sequence[int], folder: Path) -> None:
        """folder: of Triton's cache."""
        self.capabilities = tuple(capabilities)
        self._folder = folder
        self._results: dict[tuple[str, int], Compiled | Refusal | UnsupportedOpError] = {}

    def compile(self, sources: Iterable[Source]) -> None:
        """Compiles those that are not yet; see `code` for what does not compile."""
        wanted = {source.key: source for source in sources}
        new = [(key, each) for key in wanted for each in self.capabilities if (key, each) not in self._results]
        with (
            held(self._folder),
            triton_private.settings(self._folder),
            ThreadPoolExecutor(os.cpu_count()) as workers,
        ):
            results = workers.map(lambda job: self._compile(wanted[job[0]], job[1]), new)
            self._results |= dict(zip(new, results, strict=True))

    def _compile(self, source: Source, capability: int) -> Compiled | Refusal | UnsupportedOpError:
        started = time.monotonic()
        try:
            compiled = triton_private.compile_kernel(
                source.kernel,
                dict(source.signature),
                dict(source.constants),
                source.divisible,
                dict(source.options),
                capability,
            )
        except (Refusal, UnsupportedOpError) as refusal:
            return refusal
        most = SHARED_BYTES.get(capability, min(SHARED_BYTES.values()))
        if compiled.shared_bytes > most:
            return Refusal(f"it needs {compiled.shared_bytes:,} bytes of shared memory, of {most:,}", unfit=True)
        return dataclasses.replace(compiled, seconds=time.monotonic() - started)

    def fits(self, sources: Iterable[Source]) -> bool:
        """Whether there is code of all of them for every capability."""
        keys = [(source.key, each) for source in sources for each in self.capabilities]
        return all(isinstance(self._results[key], Compiled) for key in keys)

    def code(self, source: Source, tuned: bool) -> Mapping[int, Compiled]:
        """The code of a source by capability. tuned: it is one of several configurations, of which those that do not
        fit a GPU are passed over, as Triton's autotuner does; then there may be none.

        Raises:
            BuildError: Triton does not compile it.
            UnsupportedOpError: a launch of it needs what bridge lacks.
        """
        found = {}
        for capability in self.capabilities:
            result = self._results[source.key, capability]
            if isinstance(result, Compiled):
                found[capability] = result
            elif not tuned or (isinstance(result, Refusal) and not result.unfit):
                raise self._error(source, capability, result)
            else:
                logger.debug("%s with %s, for sm%d: %s", source, dict(source.options), capability, result)
        return found

    def none_left(self, pair: Variants, capability: int) -> Exception:
        """What to raise where no configuration is left for a capability; pair: the first one's."""
        results = [(source, self._results[source.key, capability]) for source in reversed(pair.all)]
        source, refusal = next((source, each) for source, each in results if not isinstance(each, Compiled))
        return self._error(source, capability, refusal)

    def _error(self, source: Source, capability: int, result: Refusal | UnsupportedOpError) -> Exception:
        file, line = triton_private.source_of(source.kernel)
        name = triton_private.name_of(source.kernel)
        if isinstance(result, UnsupportedOpError):
            return UnsupportedOpError(f"kernel {name} ({file}:{line}) cannot be part of a plugin: it needs {result}")
        place = f"{file}:{result.line or line}"
        return BuildError(f"kernel {name} ({place}) does not compile for sm{capability}: {result}")
