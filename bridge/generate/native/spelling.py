"""Names in a generated op struct, and expressions with them."""

from collections.abc import Iterable, Sequence

import sympy

from bridge.generate.native.canonical import identifier
from bridge.generate.native.expressions import bounds, double_text, int64_text
from bridge.generate.native.plan import Plan
from bridge.generate.program import Extent

# C++ 17's, and what an op struct has from csrc/core/op.h or of its own.
_KEYWORDS = """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl
const const_cast constexpr continue decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq
private protected public register reinterpret_cast return short signed sizeof static static_assert static_cast struct
switch template this thread_local throw true try typedef typeid typename union unsigned using virtual void volatile
wchar_t while xor xor_eq linux unix NAN INFINITY NULL"""
_TAKEN = """name inputs outputs attributes shapes workspace tactics tactic own_tactic Derived derived derived_from
derive derived_memory prepare run region enqueue in out queue memory stream grid scratch divisible triton bridge std Op
Param Tensor Shape Dim DType Attribute Pair require shape_of in_set require_shape choice grids registered"""
_RESERVED = frozenset((*_KEYWORDS.split(), *_TAKEN.split()))


def members(names: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Names of C++ for names of others, each another: "float" becomes "float_"."""
    used = set(taken)
    result = {}
    for name in names:
        spelled = identifier(name)
        while spelled in _RESERVED or spelled in used or _is_ours(spelled):
            spelled += "_"
        used.add(spelled)
        result[name] = spelled
    return result


def _is_ours(name: str) -> bool:
    """Whether a name is of the form of those that generation gives: n0, buffer_0, region_0; or C++ keeps it."""
    stem = name.rstrip("0123456789")
    return (stem == "n" and stem != name) or name.startswith(("buffer_", "region_", "_"))


def wrapped(start: str, items: Sequence[str], end: str, width: int = 108) -> str:
    """A list between brackets, broken into lines under its first item."""
    lines = [start]
    for index, item in enumerate(items):
        text = item + (end if index == len(items) - 1 else ",")
        if len(lines[-1]) + len(text) > width and not lines[-1].isspace() and lines[-1] != start:
            lines.append(" " * len(start))
        lines[-1] += text if lines[-1] in (start, " " * len(start)) else f" {text}"
    return "\n".join(lines)


class Spelling:
    """Expressions of an instance as C++, and the symbols that they use."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._names = {each.symbol: str(each.symbol) for each in plan.instance.symbols}
        self._used: set[sympy.Basic] = set()

    def integer(self, expression: Extent) -> str:
        """An expression as C++ of int64_t. UnsupportedOpError: it is none, or may exceed 64 bits in the profile."""
        text = int64_text(expression, self._names)
        bounds(expression, self._plan.ranges)
        self._used |= sympy.sympify(expression).free_symbols
        return text

    def number(self, expression: Extent | float) -> str:
        """An expression as C++ of double. UnsupportedOpError: it is none, or a part exceeds 64 bits in the profile."""
        text = double_text(expression, self._names)
        self._check_integers(sympy.sympify(expression))
        self._used |= sympy.sympify(expression).free_symbols
        return text

    def condition(self, expression: sympy.Basic) -> str:
        """A condition as C++ of bool."""
        self._check_integers(expression)
        return int64_text(expression, self._names)

    def _check_integers(self, expression: sympy.Basic) -> None:
        for part in sympy.preorder_traversal(expression):
            if isinstance(part, sympy.Expr) and part.is_integer:
                bounds(part, self._plan.ranges)

    def used_symbols(self) -> list[str]:
        """Definitions of the symbols that were used since the last call."""
        used, self._used = self._used, set()
        return self.symbols(used)

    def symbols(self, used: Iterable[sympy.Basic]) -> list[str]:
        """Definitions of symbols, in a function of `in`."""
        wanted = set(used)
        return [
            f"int64_t const {each.symbol} = in[{each.input}][{each.axis}];"
            for each in self._plan.instance.symbols
            if each.symbol in wanted
        ]
