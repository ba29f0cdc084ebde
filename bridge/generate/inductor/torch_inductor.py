"""Inductor's private parts, in this file alone: from a graph of ATen operators to Triton kernels and their launches.

Inductor writes a wrapper that allocates buffers and calls kernels. Its lines are read; none is run.
"""

import ast
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sympy
from torch._inductor import config as inductor_config
from torch._inductor import ir
from torch._inductor.codecache import PyCodeCache
from torch._inductor.codegen import common
from torch._inductor.codegen.wrapper_fxir import WrapperFxCodegen
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V

from bridge.base.patches import replace
from bridge.generate.inductor.graph import TracedGraph
from bridge.generate.inductor.lines import Allocate, Call, Clear, Code, Config, Foreign, Line, Result, View
from bridge.generate.inductor.products import small_products
from bridge.generate.inductor.rewrites import unsupported
from bridge.generate.without_gpu import device_properties, having, stand_in_gpu

# Nothing is measured, no result of an earlier measurement is taken, and nothing but Triton is called.
_SETTINGS = {
    "assert_indirect_indexing": False,
    "autotune_local_cache": False,
    "autotune_remote_cache": False,
    "combo_kernels": False,
    "compile_threads": 1,  # a pool of processes would be started for more
    "comprehensive_padding": False,
    "coordinate_descent_tuning": False,
    "emulate_precision_casts": False,
    "fx_wrapper": True,
    "layout_optimization": False,
    "max_autotune": False,
    "max_autotune_pointwise": False,
    "size_asserts": False,
    "triton.cooperative_reductions": False,
    "triton.multi_kernel": 0,
    "triton.native_matmul": True,  # a matrix product is a kernel, too, not a call of cuBLAS
    "triton.unique_kernel_names": True,
    "triton.use_block_ptr": False,
}
# In a kernel's source: with it Inductor has the configurations among which it chooses by measuring.
_MEASURED = ("'max_autotune_pointwise': False", "'max_autotune_pointwise': True")
_SPECIAL_LAUNCHES = ("launch_cooperative_grid", "launch_pdl")
_CAPABILITY = (8, 0)  # what is right for it is right for every later one
_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # of the environment: Inductor sets them


def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """Inductor's, by operator, and products that it leaves to cuBLAS."""
    table: dict[Any, Callable[..., Any]] = select_decomp_table()
    return table | small_products(table)


@contextlib.contextmanager
def inductor_without_gpu() -> Iterator[None]:
    """The context in which Inductor writes code for a GPU that is not there. UnsupportedOpError: see `stand_in_gpu`."""
    with stand_in_gpu(_CAPABILITY), contextlib.ExitStack() as stack:
        for variable in _VARIABLES:
            stack.callback(_restore, variable, os.environ.get(variable))
        stack.enter_context(inductor_config.patch(_SETTINGS))
        common.init_backend_registration()
        replace(stack, having(DeviceProperties, "create"), "create", classmethod(lambda cls, device: _properties()))
        replace(stack, having(triton_helpers, "set_driver_to_gpu"), "set_driver_to_gpu", lambda: None)
        replace(stack, having(common.device_codegens["cuda"], "fx_wrapper_codegen"), "fx_wrapper_codegen", _Wrapper)
        yield


def code_of(traced: TracedGraph) -> Code:
    """Lowers a graph, within `inductor_without_gpu`. UnsupportedOpError: Inductor fails."""
    graph = GraphLowering(
        traced.module, example_inputs=traced.inputs, shape_env=traced.env, fx_wrapper=True, is_inference=True
    )
    with V.set_graph_handler(graph), V.set_fake_mode(traced.mode), V.set_debug_handler(DebugContext()):
        try:
            graph.run(*traced.inputs)
            graph.codegen()
        except Exception as error:
            reason, _, more = str(error).strip().partition("\n")
            (target,) = re.findall(r"^  target: (\S+)$", more, re.MULTILINE)[:1] or [""]
            nodes = [node for node in traced.module.graph.nodes if str(node.target) == target]
            raise unsupported(nodes[0] if nodes else None, f"Inductor cannot write kernels: {reason}") from error
        reader = _Reader(graph)
        return Code(tuple(reader.lines()), tuple(graph.graph_input_names), tuple(reader.outputs()))


def _properties() -> DeviceProperties:
    known = device_properties(_CAPABILITY)
    return DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=known.multi_processor_count,
        cc=10 * known.major + known.minor,
        major=known.major,
        regs_per_multiprocessor=known.regs_per_multiprocessor,
        max_threads_per_multi_processor=known.max_threads_per_multi_processor,
        max_threads_per_block=known.max_threads_per_block,
        warp_size=known.warp_size,
    )


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


class _Wrapper(WrapperFxCodegen):
    """A wrapper whose lines are planned and kept, not written as code."""

    def _generate(self, is_inference: bool) -> tuple[Any, None]:
        self.run_wrapper_ir_passes(is_inference)
        return None, None

    def make_zero_buffer(self, name: str) -> Any:
        return Clear(name)


class _Reader:
    """Turns a wrapper's lines into data."""

    def __init__(self, graph: GraphLowering) -> None:
        self._graph = graph
        self._tuners: dict[str, tuple[Any, list[Any]]] = {}  # with its configurations

    def lines(self) -> Iterator[Line]:
        for line in self._graph.wrapper_code.lines:
            kind = type(line).__name__
            if kind in _READERS:
                yield _READERS[kind](self, line)
            elif kind == "KernelDefinitionLine":
                self._define(line)
            elif kind not in _NOTHING:
                yield _foreign(line)

    def outputs(self) -> Iterator[Result | None]:
        for output in self._graph.graph_outputs:
            node: Any = output.data if isinstance(output, ir.MutableBox) else output
            if not isinstance(node, (ir.Buffer, ir.ReinterpretView)):
                yield None
                continue
            layout = node.get_layout()
            shape, strides = (tuple(map(self._known, each)) for each in (layout.size, layout.stride))
            yield Result(node.get_name(), self._known(layout.offset), shape, strides)

    def allocate(self, line: Any) -> Allocate:
        elements = self._graph.get_allocation_storage_size(line.node)
        return Allocate(line.node.get_name(), line.node.get_dtype(), self._known(elements))

    def clear(self, line: Clear) -> Clear:
        return line

    def reuse(self, line: Any) -> View:
        return self._view(line, line.reused_as.get_offset())

    def reinterpret(self, line: Any) -> View:
        layout: Any = line.layout
        if isinstance(layout, ir.NonOwningLayout):
            layout = layout.view.layout  # type: ignore[union-attr]
        return self._view(line, line.node.get_offset() + layout.offset)

    def _view(self, line: Any, offset: Any) -> View:
        new = line.reused_as
        return View(new.get_name(), line.node.get_name(), new.get_dtype(), self._known(offset))

    def call(self, line: Any) -> Call | Foreign:
        tuner, configs = self._tuners.get(line.kernel_name, (None, []))
        if tuner is None or any(tuner.triton_meta.get(name) for name in _SPECIAL_LAUNCHES):
            return Foreign(line.kernel_name, None)
        types = tuner.triton_meta["signature"]
        names = [name for name in types if all(name not in config.kwargs for config in configs)]
        given = (getattr(argument, "inner_expr", argument) for argument in line.call_args)
        arguments = {name: self._known(value) for name, value in zip(names, given, strict=False)}
        (assumed,) = tuner.triton_meta["configs"]
        divisible = {list(types)[index] for (index,), facts in assumed.items() if ["tt.divisibility", 16] in facts}
        distinct = {str(each): each for each in (_config(tuner, config, arguments) for config in configs)}
        return Call(
            tuner.fn, arguments, types, frozenset(divisible), tuple(distinct.values()), tuner.inductor_meta["grid_type"]
        )

    def _define(self, line: Any) -> None:
        """Loads a kernel out of the line `async_compile.triton(name, source, ...)`."""
        if line.gpu:
            source = ast.literal_eval(ast.parse(line.kernel_body.strip(), mode="eval").body.args[1])
            tuner = getattr(PyCodeCache.load(source), line.kernel_name)
            more = getattr(PyCodeCache.load(source.replace(*_MEASURED)), line.kernel_name)
            self._tuners[line.kernel_name] = tuner, [*tuner.configs, *more.configs]

    def _known(self, value: Any) -> Any:
        """An expression without the names that Inductor gives to parts of it."""
        return self._graph.sizevars.remove_precomputed_replacements(value) if isinstance(value, sympy.Basic) else value


def _config(tuner: Any, config: Any, arguments: Mapping[str, Any]) -> Config:
    types, constants = tuner.triton_meta["signature"], tuner.triton_meta["constants"]
    given = {name: value for name, value in arguments.items() if types[name] == "constexpr"}
    options = {name: getattr(config, name, None) for name in ("num_warps", "num_stages", "num_ctas", "maxnreg")}
    return Config(given | constants | config.kwargs, {name: value for name, value in options.items() if value})


def _foreign(line: Any) -> Foreign:
    node = getattr(line, "node", None)
    name = getattr(node, "op_overload", None) or getattr(node, "python_kernel_name", None) or str(line)
    origins = sorted(getattr(node, "origins", ()), key=lambda origin: origin.name)
    return Foreign(str(name), getattr(node, "origin_node", None) or next(iter(origins), None))


# By the names of the lines' classes.
_READERS: dict[str, Callable[[_Reader, Any], Line]] = {
    "AllocateLine": _Reader.allocate,
    "Clear": _Reader.clear,
    "ReinterpretLine": _Reader.reinterpret,
    "ReuseLine": _Reader.reuse,
    "KernelCallLine": _Reader.call,
}
_NOTHING = {
    "AssertSizeStrideLine",
    "CommentLine",
    "EnterDeviceContextManagerLine",
    "EnterDeviceContextManagerWithStreamInfoLine",
    "EnterSubgraphLine",
    "ExitDeviceContextManagerLine",
    "ExitDeviceContextManagerWithStreamInfoLine",
    "ExitSubgraphLine",
    "FreeIfNotReusedLine",
    "FreeLine",
    "GroupedAssertSizeStrideLine",
    "LineContext",
    "NullLine",
    "SymbolicCallArgLine",
}
