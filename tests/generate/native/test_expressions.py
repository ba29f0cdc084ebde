"""Expressions of extents as C++: the numbers are Python's, and what C++ cannot say is refused."""

import random
import shutil
import struct
import subprocess

import pytest
import sympy
from torch.utils._sympy.functions import (
    CeilToInt,
    CleanDiv,
    FloatPow,
    FloatTrueDiv,
    FloorDiv,
    FloorToInt,
    Identity,
    IntTrueDiv,
    LShift,
    Max,
    Min,
    Mod,
    ModularIndexing,
    PowByNatural,
    PythonMod,
    RShift,
    ToFloat,
    TruncToInt,
    Where,
)

from bridge.errors import UnsupportedOpError
from bridge.generate.native.canonical import sdk_folder
from bridge.generate.native.compiler import find_cuda
from bridge.generate.native.expressions import bare, bounds, dim_text, double_text, int64_text
from bridge.generate.native.triton_private import include_folder
from bridge.generate.tracing.symbols import evaluate

A, B = sympy.symbols("a b", integer=True, positive=True)
C = sympy.Symbol("c", integer=True)
NAMES = {A: "a", B: "b", C: "c"}

SHAPES = [
    A + B,
    A - B,
    3 - A,
    A * B - 2 * A + 7,
    -A - B + 100000,
    A**3,
    FloorDiv(A + 1023, 1024),
    FloorDiv(A - B, 7),
    7 * FloorDiv(A * B, 4) - 1,
    CleanDiv(6 * A, 3),
    Mod(A, 8),
    PythonMod(A, B),
    ModularIndexing(A, 3, 5),
    ModularIndexing(A * B, B, 4) + 2,
    Max(A, B, 16),
    Min(A, B - 3),
    Max(1, FloorDiv(A, B)),
    Identity(A * 2),
    sympy.floor(A / 2) + sympy.ceiling(B / 3),
    sympy.floor((A + B) / 5),
    sympy.Integer(-4),
]
NUMBERS = [
    *SHAPES,
    FloorDiv(C, 7),
    FloorDiv(C, -7) * B,
    PythonMod(C, 5),
    PythonMod(C, -5),
    sympy.Abs(C) - 3,
    -(A * C),
    PowByNatural(A, sympy.Integer(2)),
    FloorToInt(IntTrueDiv(C, B)),
    CeilToInt(IntTrueDiv(C, B)),
    TruncToInt(IntTrueDiv(C, B)),
    TruncToInt(ToFloat(C)),
    LShift(A, 3),
    RShift(C, 2),
    Where(A > B, A, B * 2),
    sympy.Piecewise((A, C > 3), (B, sympy.Eq(Mod(A, 2), 0)), (C, True)),
]
FLOATS = [
    FloatPow(ToFloat(A), sympy.Float(-0.5)),
    FloatPow(IntTrueDiv(A, B), sympy.Float(2.0)),
    FloatTrueDiv(sympy.Float(1.0), FloatPow(ToFloat(A * B - 1 + B), sympy.Float(0.5))),
    IntTrueDiv(1, A),
    IntTrueDiv(A - 1, B + 2),
    -IntTrueDiv(FloorDiv(C, 7), B),
    sympy.Float(0.1) * ToFloat(A) * ToFloat(B) - sympy.Float(2.5),
    IntTrueDiv(A, B) * IntTrueDiv(A, B),
    Max(sympy.Float(1.0), IntTrueDiv(A, B)),
    Min(IntTrueDiv(C, B), sympy.Float(-1e-30)),
    sympy.Abs(IntTrueDiv(C, B)),
    ToFloat(FloorToInt(IntTrueDiv(C, B))),
    A + sympy.Float(0.5),
    sympy.Float(1e300),
    sympy.Integer(-3),
]
CONDITIONS = [
    IntTrueDiv(A, B) > sympy.Float(1.5),
    sympy.Or(IntTrueDiv(C, B) <= -2, sympy.Eq(ToFloat(A), sympy.Float(9.0))),
    A <= 1024,
    sympy.And(A > 3, B >= 5),
    sympy.Or(sympy.Eq(A, B), sympy.Ne(Mod(A, 4), 0)),
    sympy.Not(sympy.And(A < B, C < 0)),
    sympy.true,
]


def python_value(expression, values):
    """What Python's own integers give."""
    value = expression.subs(values).doit()
    return int(bool(value)) if isinstance(value, sympy.logic.boolalg.Boolean) else int(value)


@pytest.fixture(scope="module")
def points():
    draw = random.Random(3)
    return [(1, 1, -1), (1, 9, 0)] + [
        (draw.randint(1, 3000), draw.randint(1, 60), draw.randint(-900, 900)) for _ in range(20)
    ]


def run_cpp(tmp_path, body, points):
    """The integers that a program prints for each of the points; body: its statements, in terms of a, b and c."""
    return [[int(word) for word in line.split()] for line in printed_by(tmp_path, body, points).splitlines()]


def printed_by(tmp_path, body, points):
    """What such a program prints."""
    sdk = sdk_folder()
    lines = "\n".join(f"  show({a}, {b}, {c});" for a, b, c in points)
    (tmp_path / "program.cpp").write_text(
        "#include <cstdio>\n#include <cstring>\n#include <exception>\n#include <bridge/core/dim.h>\n"
        "#include <bridge/triton/integers.h>\n"
        f"namespace bridge {{\nvoid show(int64_t a, int64_t b, int64_t c) {{\n{body}\n}}\n}}\n"
        f"int main() {{\n  using bridge::show;\n{lines}\n}}\n"
    )
    include = ["-I", str(sdk.parent), "-isystem", str(find_cuda().headers), "-idirafter", str(include_folder())]
    sources = [str(tmp_path / "program.cpp"), str(sdk / "core" / "dim.cpp")]
    subprocess.run(["g++", "-std=c++17", *include, *sources, "-o", str(tmp_path / "program")], check=True)
    return subprocess.run([str(tmp_path / "program")], capture_output=True, text=True, check=True).stdout


def values_at(point):
    return dict(zip((A, B, C), point, strict=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_numbers_are_pythons(tmp_path, points):
    expressions = NUMBERS + CONDITIONS
    lines = [f'  std::printf("%lld ", (long long)({bare(int64_text(each, NAMES))}));' for each in expressions]
    printed = run_cpp(tmp_path, "\n".join([*lines, '  std::printf("\\n");']), points)
    for point, numbers in zip(points, printed, strict=True):
        assert numbers == [python_value(each, values_at(point)) for each in expressions], point


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_floats_are_pythons_bit_for_bit(tmp_path, points):
    lines = [f"  bits({bare(double_text(each, NAMES))});" for each in FLOATS]
    define = (
        'auto const bits = [](double x) { int64_t n; std::memcpy(&n, &x, 8); std::printf("%lld ", (long long)n); };'
    )
    printed = run_cpp(tmp_path, "\n".join([define, *lines, '  std::printf("\\n");']), points)
    for point, numbers in zip(points, printed, strict=True):
        values = [struct.unpack("<d", struct.pack("<q", number))[0] for number in numbers]
        assert values == [float(evaluate(each, values_at(point))) for each in FLOATS], point


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (FloatTrueDiv(sympy.Float(1.0), IntTrueDiv(C, B)), "a number made of extents is divided by 0"),
        (FloatPow(ToFloat(C), sympy.Float(-0.5)), "0, made of extents, has no power of -0.5"),
        (FloatPow(ToFloat(C - 3), sympy.Float(0.5)), "-3, made of extents, has no power of 0.5"),
    ],
)
def test_what_python_refuses_is_an_error(tmp_path, expression, message):
    attempt = f"try {{ (void)({double_text(expression, NAMES)}); }}"
    report = "catch (std::exception const& error) { std::puts(error.what()); }"
    assert printed_by(tmp_path, f"  (void)a, (void)b;\n  {attempt} {report}", [(1, 1, 0)]) == f"{message}\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_shapes_are_pythons(tmp_path, points):
    names = {A: "x", B: "y"}
    lines = [f'  std::printf("%lld ", (long long)Dim({bare(dim_text(each, names))}).value());' for each in SHAPES]
    body = "\n".join(["  Dim const x = a, y = b;\n  (void)c;", *lines, '  std::printf("\\n");'])
    for point, numbers in zip(points, run_cpp(tmp_path, body, points), strict=True):
        assert numbers == [python_value(each, values_at(point)) for each in SHAPES], point


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (A / 2, "a/2 is not computed with integers alone"),
        (sympy.sqrt(A), "which generated code cannot compute"),
        (sympy.sin(A), "sin(a) has sin, which generated code cannot compute"),
        (A + sympy.Symbol("q", integer=True), "q is no extent of an input"),
        (A + 2**70, "does not fit 64 bits"),
        (ToFloat(A) + 1, "is not computed with integers alone"),
    ],
)
def test_what_is_no_integer_is_refused(expression, reason):
    with pytest.raises(UnsupportedOpError) as caught:
        int64_text(expression, NAMES)
    assert reason in str(caught.value)


@pytest.mark.parametrize("expression", [Where(A > B, A, B), sympy.Abs(C), IntTrueDiv(A, B), PowByNatural(A, B)])
def test_what_tensorrt_cannot_compute_is_refused(expression):
    with pytest.raises(UnsupportedOpError, match="TensorRT cannot compute for a shape"):
        dim_text(expression, NAMES)


@pytest.mark.parametrize("expression", [sympy.sin(A), PythonMod(IntTrueDiv(A, B), sympy.Float(1.0))])
def test_what_is_no_number_is_refused(expression):
    with pytest.raises(UnsupportedOpError, match="which generated code cannot compute"):
        double_text(expression, NAMES)


def test_numbers_that_are_known_may_be_infinite():
    texts = [double_text(value, NAMES) for value in (0.1, -3, float("inf"), float("-inf"), float("nan"))]
    assert texts == ["0.1", "-3.0", "INFINITY", "-INFINITY", 'std::nan("")']


def test_text_is_what_a_person_would_write():
    assert bare(int64_text(FloorDiv(A * B + 1023, 1024), NAMES)) == "triton::floor_div(1023 + (a * b), 1024)"
    assert bare(int64_text(A - 1, NAMES)) == "a - 1"
    assert bare(dim_text(2 * A, NAMES)) == "2 * a"


def test_bounds_cover_every_value(points):
    ranges = {A: (1, 3000), B: (1, 60), C: (-900, 900)}
    for expression in NUMBERS:
        low, high = bounds(expression, ranges)
        for point in points:
            assert low <= python_value(expression, values_at(point)) <= high, expression
    assert bounds(4 * A * B, ranges) == (4, 4 * 3000 * 60)


def test_what_may_exceed_64_bits_is_refused():
    with pytest.raises(UnsupportedOpError, match=r"a\*\*3 may be anything from 1 to int_oo in the profile"):
        bounds(FloorDiv(A**3, 8), {A: (1, 1 << 40)})
