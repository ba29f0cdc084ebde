"""A launch of a kernel as C++."""

from collections.abc import Sequence

import sympy

from bridge.errors import UnsupportedOpError
from bridge.generate.native import triton_private
from bridge.generate.native.expressions import bare
from bridge.generate.native.parameters import string_literal
from bridge.generate.native.plan import Plan
from bridge.generate.native.spelling import Spelling, members, wrapped
from bridge.generate.program import Argument, Launch, Pointer

# Types of scalar arguments as Triton spells them, and as its launcher passes them.
_INTEGERS = {f"i{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)} | {
    f"u{bits}": f"uint{bits}_t" for bits in (8, 16, 32, 64)
}
_INTEGERS |= {"i1": "int8_t", "u1": "uint8_t"}
_FLOATS = {"fp32": "float", "f32": "float", "fp64": "double"}


def launch_text(plan: Plan, launch: Launch, spelling: Spelling, scratch: str, tactic_step: int) -> list[str]:
    """The lines of a launch. scratch: the address of Triton's memory; tactic_step: see csrc/triton/queue.h."""
    choices = plan.choices_of(launch)
    kernel = triton_private.name_of(launch.kernel)
    order = triton_private.parameters(launch.kernel)
    given = sorted(launch.arguments, key=lambda each: order.index(each.name))
    names = members([each.name for each in given], {scratch, choices.name})
    arguments = [_argument_text(kernel, each, names[each.name], spelling) for each in given]
    maybe = [each for each in given if each.divisible == "maybe"]
    pointers = [names[each.name] for each in maybe if isinstance(each.value, Pointer)]
    numbers = [names[each.name] for each in maybe if not isinstance(each.value, Pointer)]
    grids = [", ".join(bare(spelling.integer(each)) for each in choice.configuration.grid) for choice in choices.all]
    lines = [*arguments]
    if len(choices.all) > 1:
        rows = [f"{{{grid}}}" for grid in grids]
        lines.append(f"int const choice = triton::choice({choices.name}, tactic, {tactic_step});")
        lines += wrapped("triton::Grid const grids[] = {", rows, "};").splitlines()
    which, grid = ("choice", "grids[choice]") if len(choices.all) > 1 else ("0", f"triton::Grid{{{grids[0]}}}")
    divisible = f"triton::Divisible{{{_divisible_text(pointers)}, {_divisible_text(numbers)}}}" if maybe else "{}"
    passed = [f"{choices.name}[{which}]", divisible, grid, scratch, *names.values()]
    lines += wrapped("queue.launch(", passed, ");").splitlines()
    return [f"{{  // {kernel}", *(f"  {line}" for line in lines), "}"]


def _divisible_text(names: Sequence[str]) -> str:
    return f"triton::divisible({', '.join(names)})" if names else "true"


def pointer_text(pointer: Pointer, spelling: Spelling) -> str:
    """An address as C++ of uintptr_t."""
    base = {
        "input": f"triton::address(in[{pointer.index}])",
        "output": f"triton::address(out[{pointer.index}])",
        "buffer": f"buffer_{pointer.index}",
    }[pointer.kind]
    return base if pointer.offset == 0 else f"{base} + {spelling.integer(pointer.offset)}"


def _argument_text(kernel: str, argument: Argument, name: str, spelling: Spelling) -> str:
    where = f"kernel {kernel}: {argument.name}"
    if argument.type.startswith("*"):
        if not isinstance(argument.value, Pointer):
            raise ValueError(f"{where} is {argument.type}, and its value {argument.value!r} is no address")
        return f"uintptr_t const {name} = {pointer_text(argument.value, spelling)};"
    if argument.type in _FLOATS:
        if isinstance(argument.value, Pointer):
            raise ValueError(f"{where} is {argument.type}, and its value is an address")
        cpp = _FLOATS[argument.type]
        return f"{cpp} const {name} = static_cast<{cpp}>({bare(spelling.number(argument.value))});"
    if argument.type not in _INTEGERS:
        raise UnsupportedOpError(f"{where} is {argument.type}; arguments are addresses, integers, fp32 or fp64")
    return _integer_text(kernel, argument, name, spelling)


def _integer_text(kernel: str, argument: Argument, name: str, spelling: Spelling) -> str:
    cpp = _INTEGERS[argument.type]
    value = argument.value
    if isinstance(value, (bool, sympy.logic.boolalg.BooleanAtom)):
        value = int(bool(value))
    if isinstance(value, int) and value >= 1 << 63:
        return f"{cpp} const {name} = {value}u;"
    assert not isinstance(value, (Pointer, float))
    place = f"{string_literal(kernel)}, {string_literal(argument.name)}"
    return f"{cpp} const {name} = triton::narrow<{cpp}>({place}, {bare(spelling.integer(value))});"
