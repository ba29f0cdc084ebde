"""Programs whose inputs have keys that would break the guards torch writes as code.

torch writes a program's guards on its inputs as Python code, with the keys of dictionaries in quotes and not escaped: a
key with a quote, a backslash or a line break in it ends in a SyntaxError. torch 2.11 and 2.14 do.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator

from torch.export import ExportedProgram, _unlift
from torch.utils import _pytree as pytree

from bridge.base.patches import replace

_NAME = "_convert_guards_code_to_fn"  # a version that lacks it is left unchanged
_BREAKS_A_STRING = re.compile(r"[\"'\\\n\r]")


@contextlib.contextmanager
def without_input_guards(program: ExportedProgram) -> Iterator[None]:
    """Within it torch generates no guards on a program's inputs if a key would break them; for one thread at a time.

    An engine checks its inputs itself.
    """
    spec = program.call_spec.in_spec
    original = getattr(_unlift, _NAME, None)
    if spec is None or original is None or not any(map(_BREAKS_A_STRING.search, _argument_keys(spec))):
        yield
        return
    with contextlib.ExitStack() as stack:
        replace(stack, _unlift, _NAME, lambda conditions, paths: original([], paths))
        yield


def _argument_keys(spec: pytree.TreeSpec) -> Iterable[str]:
    context = spec.context if isinstance(spec.context, (list, tuple)) else [spec.context]
    yield from (key for key in context if isinstance(key, str))
    for child in spec.children():
        yield from _argument_keys(child)
