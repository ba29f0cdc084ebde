"""The private parts of torch that bridge uses, each with the files that use it and the reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Types and functions without a public name that torch's own documentation uses: any file may use them.
ANYWHERE = {
    "torch._ops": "the types of operators, such as OpOverload",
    "torch._subclasses": "FakeTensor, the type of tensors without values",
    "torch.fx.experimental": "ShapeEnv and its functions on symbolic extents, documented as experimental",
    "torch.utils._pytree": "flattening with key paths, and tree specs",
    "torch.utils._sympy": "the functions in torch's symbolic extents",
}
# name → file below bridge/ → reason.
PRIVATE = {
    "torch._C": {
        "core/derivatives.py": "the stack of functorch's interpreters",
        "core/binding.py": "parse_schema",
        "core/op.py": "parse_schema, dispatch keys, aliasing and the stack of dispatch modes",
        "generate/native/parameters.py": "parse_schema",
        "graph/function_modes/known_values.py": "the stack of functorch's interpreters; calls that no mode sees",
        "engine/process_state.py": "cuDNN's and MKL-DNN's switches, dispatch keys",
        "tensorrt/run/streams.py": "the current stream's handle, without the cost of a Stream object",
    },
    "torch._check": {"graph/torch_patches/sampling.py": "a condition on extents, as torch documents it"},
    "torch._decomp": {
        "graph/torch_patches/recurrent.py": "patched: an LSTM's last states have the wrong shape",
        "graph/torch_patches/sampling.py": "torch's own table, for calls that are seldom",
        "graph/torch_patches/upsampling.py": "patched: it puts a guard on dynamic channels",
        "tensorrt/decompositions/__init__.py": "torch's own table",
        "tensorrt/decompositions/resizing.py": "torch's own table",
    },
    "torch._dispatch": {
        "generate/inductor/graph.py": "traces composite operators with symbolic extents",
        "passes/common/editor.py": "traces composite operators with symbolic extents",
        "tensorrt/converters/attention.py": "decomposes attention as torch.export does",
    },
    "torch._dynamo": {
        "generate/inductor/graph.py": "the source of a symbol, a type that ShapeEnv asks for",
        "generate/tracing/symbols.py": "the source of a symbol, a type that ShapeEnv asks for",
        "generate/without_gpu.py": "put back: what it keeps of a GPU's properties",
        "graph/dynamo.py": "torch.compile's tracer: frames, graph breaks, recompiles, its lock",
    },
    "torch._export": {"graph/torch_patches/linear_time.py": "patched: quadratic time"},
    "torch._foreach_copy_": {"tensorrt/run/replay.py": "one launch for the copies of all inputs"},
    "torch._guards": {
        "doors/backend.py": "leaves torch.compile's tracing context for a capture",
        "generate/tracing/raw_launches.py": "the fake mode of an operator's tensors",
        "graph/conditions.py": "the line of the model that is traced",
        "passes/common/editor.py": "the fake mode of a graph's tensors",
        "tensorrt/converters/attention.py": "the fake mode of a graph's tensors",
    },
    "torch._higher_order_ops": {
        "generate/inductor/scans.py": "patched: associative_scan compiles the function that it is given",
        "generate/tracing/raw_launches.py": "a kernel's launch as an operator of a graph; patched: it needs a GPU",
        "generate/tracing/writes.py": "what a kernel writes",
    },
    "torch._inductor": {"generate/inductor/torch_inductor.py": "writes Triton kernels"},
    "torch._is_functional_tensor": {"core/op.py": "tells whether a fast path is safe"},
    "torch._library": {
        "core/derivatives.py": "the autograd of custom ops, with forward mode added",
        "generate/tracing/calls.py": "the bodies of custom ops",
        "generate/tracing/raw_launches.py": "patched: the fake implementations of triton_ops",
        "generate/tracing/triton_launches.py": "wrap_triton off: a launch within it is caught as any other",
    },
    "torch._meta_registrations": {
        "graph/torch_patches/pooled_extents.py": "patched: it puts guards on dynamic extents"
    },
    "torch._prims_common": {"tensorrt/decompositions/promotion.py": "torch's rules of dtype promotion"},
    "torch.cuda._sleep": {"engine/timing.py": "keeps a GPU busy while launches are queued"},
    "torch._sym_log2": {"tensorrt/converters/extents.py": "an operator in graphs"},
    "torch._sym_sqrt": {"tensorrt/converters/extents.py": "an operator in graphs"},
    "torch.export._trace": {
        "base/third_party_output.py": "patched: it prints graphs that fail",
        "graph/torch_patches/linear_time.py": "patched: quadratic time",
    },
    "torch.export._unlift": {
        "graph/torch_patches/input_guards.py": "patched: keys of arguments break the code that it writes"
    },
    "torch.utils._python_dispatch": {
        "doors/comparison/on_gpu.py": "leaves the dispatch modes of a trace",
        "generate/inductor/lowering.py": "leaves the dispatch modes of a trace",
        "generate/tracing/recording.py": "TorchDispatchMode",
        "graph/function_modes/known_values.py": "leaves the dispatch modes of a trace",
    },
    "torch.utils._triton": {"generate/without_gpu.py": "cleared: whether there is a GPU for Triton"},
    "torch.nn.modules.batchnorm._BatchNorm": {"graph/capture.py": "the base class of layers that training changes"},
    "torch.nn.modules.dropout._DropoutNd": {"graph/capture.py": "the base class of layers that training changes"},
}


def private_name(dotted: str) -> str | None:
    """A name below torch up to its first private or experimental part; None for public names and operators."""
    parts = dotted.split(".")
    if parts[0] != "torch" or parts[1:2] == ["ops"]:
        return None
    for place, part in enumerate(parts[1:], 2):
        if (part.startswith("_") and not part.startswith("__")) or part == "experimental":
            return ".".join(parts[:place])
    return None


def dotted_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted_name(node.value)) is not None:
        return f"{owner}.{node.attr}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
        owner, name = dotted_name(node.args[0]), node.args[1]
        if owner is not None and isinstance(name, ast.Constant):
            return f"{owner}.{name.value}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
        return node.args[0].value if isinstance(node.args[0], ast.Constant) else None
    return None


def names(tree: ast.AST) -> Iterator[str]:
    """The private names that a module imports or reads as attributes of torch, by getattr() and import_module() too."""
    for node in ast.walk(tree):
        dotted: list[str | None] = [dotted_name(node)] if isinstance(node, (ast.Attribute, ast.Call)) else []
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from filter(None, (private_name(name) for name in dotted if name is not None))


def uses() -> dict[str, set[str]]:
    """private name → files below bridge/."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "bridge").rglob("*.py"):
        for name in names(ast.parse(path.read_text())):
            found.setdefault(name, set()).add(path.relative_to(ROOT / "bridge").as_posix())
    return found


def test_private_parts_are_used_where_the_table_says():
    found = {name: files for name, files in uses().items() if name not in ANYWHERE}
    assert found == {name: set(files) for name, files in PRIVATE.items()}


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("import torch._dynamo.x", "torch._dynamo"),
        ("from torch.export import _trace, Dim", "torch.export._trace"),
        ("f = torch._C", "torch._C"),
        ("getattr(torch.export, '_unlift', None)", "torch.export._unlift"),
        ("hasattr(getattr(torch, '_C'), 'f')", "torch._C"),
        ("importlib.import_module('torch._decomp')", "torch._decomp"),
        ("torch.ops._x; torch.__file__; getattr(torch, name); getattr(self, '_x'); import_module(name)", None),
    ],
)
def test_private_names_are_found(code, private):
    assert set(names(ast.parse(code))) == ({private} if private else set())
