"""Makes two steps of torch.export linear in the number of weights, instead of quadratic.

They take a third of the compile time of a model of 1,000 layers. Results stay the same.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch._export import utils
from torch.export import _trace, exported_program
from torch.fx import GraphModule

from bridge.base.patches import replace

_COPY = "_populate_param_buffer_metadata_to_new_gm"
_MATCH = "_is_call_name"
_unflatten = importlib.import_module("torch.export.unflatten")  # torch.export has a function of that name


@dataclass(frozen=True)
class _Weights:
    """Two tables of a graph's signature. The signature itself builds them again at each use."""

    inputs_to_parameters: Mapping[str, str]
    inputs_to_buffers: Mapping[str, str]


@contextlib.contextmanager
def linear_time_export() -> Iterator[None]:
    """Within it torch.export looks each weight up once. A torch without these functions is left unchanged."""
    with contextlib.ExitStack() as stack:
        if hasattr(utils, _COPY):
            _cache_signature_tables(stack)
        if hasattr(_unflatten, _MATCH):
            _compare_prefix_first(stack)
        yield


def _cache_signature_tables(stack: contextlib.ExitStack) -> None:
    """torch 2.11 builds a signature's tables again at each placeholder; 2.14 does not."""
    original = getattr(utils, _COPY)

    def copy(metadata: dict[str, Any], module: GraphModule, signature: Any) -> None:
        original(metadata, module, _Weights(signature.inputs_to_parameters, signature.inputs_to_buffers))

    for owner in (utils, _trace, exported_program):  # the last two import it by name
        if vars(owner).get(_COPY) is original:
            replace(stack, owner, _COPY, copy)


def _compare_prefix_first(stack: contextlib.ExitStack) -> None:
    """torch matches the pattern "name@1" against every pair of names; comparing the prefix first is cheap."""
    original = getattr(_unflatten, _MATCH)

    def matches(name: str, base: str) -> bool:
        return name.startswith(base) and original(name, base)

    replace(stack, _unflatten, _MATCH, matches)
