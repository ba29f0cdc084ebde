"""The message when torch.export fails: torch's reason without boilerplate, the model's line, and what to do."""

import re
import traceback

from bridge.graph.dynamo import TorchDynamoException
from bridge.graph.model_source import is_model_code

SMALL_EXAMPLE = r"specialized it to be a constant \([01]\)"

# Pattern in torch's message → what to do; the first match is shown.
_HINTS = (
    (
        SMALL_EXAMPLE,
        "torch.export specialises extents of 0 and 1; give an example whose dynamic dimensions are 2 or more",
    ),
    (
        r"specialized it to be a constant|Specializations unexpectedly required",
        "the model's code holds that dimension to the example's extent; change the line that does, or leave the"
        " dimension out of dynamic_shapes",
    ),
    (
        r"Constraints violated",
        "the model's code restricts that dimension more than dynamic_shapes does; use the range that is suggested, or a"
        " Dim that is a multiple, such as 8 * Dim(...)",
    ),
    (
        r"has no attribute `",
        "torch.export finds parameters and modules by names with dots between them; if one of the model's own names has"
        " a dot in it, give it another",
    ),
    (
        r"\d+ active drivers|JITFunction|@triton\.jit",
        "the model asks Triton for a GPU, or launches a kernel in a way that torch.export cannot follow; make that"
        " an operator: a function under @torch.library.triton_op or custom_op, with a fake implementation",
    ),
    (
        r"DispatchKey\.(Sparse|Nested)|SparseC[PS]U|NestedTensor",
        "an engine takes dense tensors alone; pass x.to_dense(), or padded tensors and their lengths",
    ),
)
_EXPERTS = (
    "the model loops over the experts that tokens go to, which one engine cannot; for a model of transformers,"
    ' model.set_experts_implementation("grouped_mm"), or "batched_mm", computes the same without that loop'
)
_DATA_DEPENDENT = r"data-dependent|DataDependent"
_BRANCH = "the model branches on values of tensors, which one engine cannot; use torch.where, or compute both"
_BRANCH_OF_LIBRARY = (
    "that line of {library} branches on values of tensors, or on how many there are of something, which one engine"
    " cannot; compile the part before it alone, or with"
    ' torch.compile(model, backend="bridge", options={{"fallback": True}}), which runs the rest in PyTorch'
)
_BOILERPLATE = re.compile(
    r"(For (more|extended|C\+\+|debugging)|If you suspect|The error above|consider using|Caused by|Potential framework)"
)
_SELF_EXPLANATORY = (TorchDynamoException, RuntimeError, ValueError, TypeError)


def explain_export_error(error: Exception) -> str:
    """The message for an exception from torch.export."""
    text = re.sub(r" For more information, run with \S+", "", str(error))
    lines = [line for line in text.splitlines() if line.strip() and not _BOILERPLATE.match(line.strip())]
    reason = "\n".join(lines)
    if not reason or not isinstance(error, _SELF_EXPLANATORY):
        reason = f"{type(error).__name__}: {reason}"
    frame = _model_frame(error)
    where = f"\n  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" if frame is not None else ""
    hint = _hint(text, frame)
    return f"{reason}{where}" + (f"\nWhat to do: {hint}." if hint else "")


def _hint(text: str, frame: traceback.FrameSummary | None) -> str | None:
    hint = next((advice for pattern, advice in _HINTS if re.search(pattern, text)), None)
    if hint is not None or not re.search(_DATA_DEPENDENT, text):
        return hint
    if re.search(r"(?i)\bfor \w*expert\w* in\b", f"{text} {frame.line if frame is not None else ''}"):
        return _EXPERTS
    library = frame.filename.rpartition("site-packages/")[2].partition("/")[0] if frame is not None else ""
    installed = frame is not None and "site-packages/" in frame.filename
    return _BRANCH_OF_LIBRARY.format(library=library) if installed else _BRANCH


def _model_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame of the model, or of a library other than torch, that the exception passed."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if is_model_code(frame.filename)), None)
