"""Buffers that hold a number, where a model's code reads it: paddings and strides of codecs (Encodec, Mimi).

torch.export traces `int(self.stride)` as a value that only a run knows, and refuses to branch on it or to pad by it. An
engine's buffers are fixed, so the number is known. What a model's code writes to the buffer while it is traced counts,
as in a run. Extents that depend on dynamic ones and on such a number stay unknown.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import _trace

from bridge.base.patches import replaced


def known_buffers() -> AbstractContextManager[None]:
    """Within it torch.export knows the values of buffers without dimensions."""
    return replaced(_trace, "_fakify_params_buffers", _with_values)


def _with_values(original: Callable[..., Any]) -> Callable[..., Any]:
    def fakes(mode: FakeTensorMode, module: torch.nn.Module) -> Any:
        made = original(mode, module)
        for name, buffer in module.named_buffers(remove_duplicate=False):
            fake = made[name]
            if buffer.dim() == 0 and type(buffer) is not FakeTensor and not buffer.is_meta and fake.constant is None:
                fake.constant = buffer.detach().clone()  # a write while it is traced must not change the model
                mode.fake_tensor_converter.add_constant_storage_mapping(fake)
        return made

    return fakes
