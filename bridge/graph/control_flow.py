"""Operators of torch that take functions: what each does that no engine can, and what to write instead."""

import traceback
from pathlib import Path

import torch
from torch._ops import HigherOrderOperator

_FOLDER = str(Path(torch.__file__).parent / "_higher_order_ops")
# By the name of the operator, which is that of torch's file, too.
_REFUSALS = {
    "cond": "torch.cond runs one of two functions, chosen by a value. Compute both and choose between the results with"
    " torch.where; or choose by a shape with an `if` of Python",
    "while_loop": "torch.while_loop runs for as long as a value says. Write a loop of Python with a fixed number of"
    " steps, where torch.where keeps what is finished",
    "scan": "torch's scan carries a state from step to step. Write a loop of Python over a fixed extent, a cumulative"
    " operator such as torch.cumsum, or a Triton kernel with a loop in an op of yours",
    "associative_scan": "torch's associative_scan combines elements with a function. Put it into a"
    ' torch.library.custom_op with a fake of its own, with combine_mode="pointwise": Inductor writes its kernel. Or'
    " write a cumulative operator such as torch.cumsum",
    "map": "torch's map calls a function for each slice. Call it once for all of them, with torch.vmap; or write a loop"
    " of Python over a fixed extent",
    "flex_attention": "flex_attention takes functions of scores. Write torch's scaled_dot_product_attention with a mask"
    " or a bias, or a kernel of yours",
}
_ALIASES = {"map_impl": "map", "while_loop_stack_output": "while_loop"}


def refusal(operator: object) -> str | None:
    """Why no engine holds an operator that takes functions, and what to do; None for any other."""
    if not isinstance(operator, HigherOrderOperator):
        return None
    name = operator.name()
    return _REFUSALS.get(_ALIASES.get(name, name))


def refusal_of_failure(error: BaseException) -> str | None:
    """The same where a call of such an operator failed; None: the error came from elsewhere."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    names = [file.stem for file in files if str(file.parent) == _FOLDER]
    return next((_REFUSALS[name] for name in names if name in _REFUSALS), None)
