"""That a call is refused, by the op in PyTorch and by the shape rule of its plugin, which have one message."""

from typing import Any

import pytest

import bridge
from bridge.core import libraries
from bridge.core.op import Op
from bridge.errors import OpInputError


def check_refused(op: Op, text: str, given: dict[str, Any]) -> None:
    """`op` refuses the arguments `given`, with a message that `text` matches."""
    with pytest.raises(OpInputError, match=text):
        getattr(bridge, op.local_name)(**given)
    tensors, attributes = op.bind((), given)
    shapes = [None if tensor is None else tuple(tensor.shape) for tensor in tensors]
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(op, shapes, attributes)
