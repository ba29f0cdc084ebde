"""Autotuned kernels: which of their configurations a generated plugin has.

One that was measured alone. Without a measurement, all as tactics for a TensorRT that measures tactics; else the first
one that fits the GPU, for no other would run. Measurements go by the kind of a launch: its kernel, argument types and
configurations, and the extents that it was tuned for, in powers of two.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import sympy

from bridge.generate.native import triton_private
from bridge.generate.native.canonical import described
from bridge.generate.program import Configuration, Instance, Launch, Step, TensorType
from bridge.generate.tracing.symbols import evaluate

_DIGITS = 12


@dataclass(frozen=True)
class Selection:
    """chosen: the index of a configuration that was measured, by the kind of a launch. tactics: whether the others have
    all of their configurations."""

    chosen: Mapping[str, int] = field(default_factory=dict)
    tactics: bool = True


ALL = Selection()


def autotuned(instance: Instance) -> dict[str, Launch]:
    """The launches at the extents that are tuned for which have several configurations, by kind."""
    region = instance.region_at(_examples(instance))
    launches = [step for step in region.steps if _is_autotuned(step)] if region else []
    return {kind_of(instance, each): each for each in launches if isinstance(each, Launch)}


def with_chosen(instance: Instance, chosen: Mapping[str, int]) -> Instance:
    """The instance with the chosen configuration alone, where there is one for a launch's kind."""
    if not chosen:
        return instance

    def reduced(step: Step) -> Step:
        if not isinstance(step, Launch) or not _is_autotuned(step):
            return step
        index = chosen.get(kind_of(instance, step), len(step.configurations))
        return replace(step, configurations=step.configurations[index : index + 1] or step.configurations)

    regions = (replace(each, steps=tuple(map(reduced, each.steps))) for each in instance.regions)
    return replace(instance, regions=tuple(regions))


def kind_of(instance: Instance, launch: Launch) -> str:
    """A launch's kind, such as "acme::norm(float16[4096, 1024]) _norm_kernel 0123456789ab".

    UnsupportedOpError: a constant of the kernel is none that can be written down.
    """
    tensors = ", ".join(_shown(each, instance) for each in instance.inputs if each is not None)
    content = [triton_private.version(), described(launch.kernel)]
    content += [[each.name, each.type, each.divisible] for each in launch.arguments]
    content += [_ways(each) for each in launch.configurations]
    digits = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    return f"{instance.operator}({tensors}) {triton_private.name_of(launch.kernel)} {digits}"


def configuration_text(configuration: Configuration) -> str:
    """What a configuration consists of: "BLOCK=1024, num_warps=8"."""
    values = {**configuration.constants, **configuration.options}
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _is_autotuned(step: Step) -> bool:
    return isinstance(step, Launch) and len(step.configurations) > 1


def _ways(configuration: Configuration) -> object:
    """Without the grid, which has the names of symbols."""
    return described(replace(configuration, grid=(1, 1, 1)))


def _examples(instance: Instance) -> dict[sympy.Symbol, int]:
    """The extents that are tuned for."""
    return {each.symbol: each.example for each in instance.symbols}


def _shown(tensor: TensorType, instance: Instance) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(_rounded(tensor, instance))}"


def _rounded(tensor: TensorType, instance: Instance) -> Iterator[int]:
    examples = _examples(instance)
    for extent in tensor.shape:
        value = evaluate(extent, examples)
        yield 1 << (value - 1).bit_length() if value > 0 else 0
