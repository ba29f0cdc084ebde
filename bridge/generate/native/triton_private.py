"""All of Triton's private API that bridge's back end uses, as Triton 3.6 to 3.8 have it.

tests/generate/native/test_triton_private.py says what moved, where it did.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import UnsupportedOpError

_CHANGES = threading.Lock()  # of Triton's settings, which are the process's
_compiling = threading.local()
_PARSES = 8  # of a kernel that another thread disturbs
_SILENT = "PassManager::run failed"  # all that Triton raises where a pass of its compiler fails


@dataclass(frozen=True)
class Compiled:
    """Code of a kernel for one compute capability, and what a launch of it needs.

    name: of the function in the cubin. warps, shared_bytes, scratch_bytes: of one program; the last is global memory,
    aligned to scratch_align. seconds: that it took to compile.
    """

    name: str
    cubin: bytes
    warps: int
    shared_bytes: int
    scratch_bytes: int
    scratch_align: int
    seconds: float = 0.0


class Refusal(Exception):
    """A kernel that does not compile, in Triton's words. unfit: it is one that Triton's autotuner passes over."""

    def __init__(self, reason: str, line: int | None = None, unfit: bool = False) -> None:
        super().__init__(reason)
        self.line = line
        self.unfit = unfit


def version() -> str:
    """Triton's version, such as "3.6.0"."""
    import triton

    return str(triton.__version__)


def include_folder() -> Path:
    """Triton's copy of CUDA's headers."""
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "include"


def parameters(kernel: Any) -> list[str]:
    """The names of a kernel's parameters, constants among them."""
    return list(kernel.arg_names)


def source_of(kernel: Any) -> tuple[str, int]:
    """The file of a kernel, and the line of its `def`, from which Triton counts."""
    decorators = next((i for i, line in enumerate(kernel.raw_src) if line.lstrip().startswith("def ")), 0)
    return str(kernel.fn.__code__.co_filename), int(kernel.starting_line_number) + decorators


def name_of(kernel: Any) -> str:
    """The name of a kernel's function."""
    return str(kernel.fn.__name__)


def cache_key(function: Any) -> str:
    """What the code of a kernel, with all that it calls, is known by."""
    return str(function.cache_key)


def is_function(value: Any) -> bool:
    """Whether a constant is a function that a kernel calls."""
    from triton.runtime.jit import JITCallable

    return isinstance(value, JITCallable)


def is_dtype(value: Any) -> bool:
    """Whether a constant is one of Triton's dtypes."""
    from triton.language import dtype

    return isinstance(value, dtype)


def unwrap(value: Any) -> Any:
    """The value of a tl.constexpr; other values as they are."""
    from triton.language import constexpr

    return value.value if isinstance(value, constexpr) else value


@contextlib.contextmanager
def settings(folder: Path) -> Iterator[None]:
    """Triton compiles without a GPU and without line tables, two thirds of a cubin, and keeps cubins in a folder.

    These settings are the whole process's, so one thread at a time may enter. Kernels that another thread launches
    meanwhile run as ever.
    """
    from triton import knobs
    from triton.runtime import driver

    with _CHANGES, knobs.compilation.scope(), knobs.cache.scope():
        active = driver._active
        try:
            driver.set_active(_Driver(active))
            knobs.compilation.disable_line_info = True
            knobs.compilation.store_binary_only = True
            knobs.cache.dir = str(folder)
            yield
        finally:
            driver._active = active


class _Driver:
    """In place of Triton's driver, which asks the GPU: code generation gets the target that it is for."""

    def __init__(self, active: Any) -> None:
        self._active = active

    def get_current_target(self) -> Any:
        target = getattr(_compiling, "target", None)
        return self._real().get_current_target() if target is None else target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def _real(self) -> Any:
        from triton.runtime import driver

        return self._active or driver.default


def _target(capability: int) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", capability, 32)


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    divisible: frozenset[str],
    options: Mapping[str, Any],
    capability: int,
) -> Compiled:
    """Compiles a kernel, within `settings`.

    signature: the type of every parameter, "constexpr" for constants. divisible: the parameters that are by 16.

    Raises:
        Refusal: Triton or ptxas do not compile it.
        UnsupportedOpError: a launch of it needs what bridge's launcher lacks; the message says what.
    """
    from triton.compiler import ASTSource

    _refuse_options(options)
    names = parameters(kernel)
    source = ASTSource(
        fn=kernel,
        signature=dict(signature),
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in names if name in divisible},
    )
    _compiling.target = _target(capability)
    try:
        compiled = _compiled(source, options)
    except Exception as error:
        raise _refusal(kernel, error) from error
    finally:
        _compiling.target = None
    return _read(compiled)


def _compiled(source: Any, options: Mapping[str, Any]) -> Any:
    """Python 3.11 cannot always parse in several threads: "AST constructor recursion depth mismatch"."""
    import triton

    for _ in range(_PARSES):
        with contextlib.suppress(SystemError):
            return triton.compile(source, target=_compiling.target, options=dict(options))
    return triton.compile(source, target=_compiling.target, options=dict(options))


def _refuse_options(options: Mapping[str, Any]) -> None:
    for needs, what in (
        (options.get("num_ctas", 1) != 1, f"clusters of {options.get('num_ctas')} programs (num_ctas)"),
        (options.get("launch_cooperative_grid"), "a cooperative launch"),
    ):
        if needs:
            raise UnsupportedOpError(what)


def _refusal(kernel: Any, error: Exception) -> Refusal:
    """An error of Triton's: its reason is that of the innermost cause, its line the outermost in the kernel itself."""
    from triton.compiler.errors import CompilationError, CompileTimeAssertionFailure
    from triton.runtime.errors import OutOfResources, PTXASError

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
    compilation = [each for each in causes if isinstance(each, CompilationError)]
    line = None
    if compilation and hasattr(compilation[0].node, "lineno"):
        line = source_of(kernel)[1] + compilation[0].node.lineno - 1
    innermost = causes[-1]
    reason = (innermost.error_message or "") if isinstance(innermost, CompilationError) else str(innermost)
    excerpt = compilation[-1].message if compilation else ""
    unfit = any(isinstance(each, (OutOfResources, PTXASError, CompileTimeAssertionFailure)) for each in causes)
    text = reason.strip() or excerpt.strip() or type(innermost).__name__
    return Refusal(text.replace(_SILENT, f"{_SILENT}; Triton wrote why to stderr"), line, unfit)


def _read(compiled: Any) -> Compiled:
    """What a launch needs. launch_pdl is left out: it says how early a kernel may start, not what it computes."""
    metadata = compiled.metadata
    for needs, what in (
        (metadata.tensordesc_meta, "tensor descriptors as arguments"),
        (metadata.tmem_size, "tensor memory"),
        (metadata.profile_scratch_size, "memory for Triton's profiler"),
    ):
        if needs:
            raise UnsupportedOpError(what)
    return Compiled(
        name=metadata.name,
        cubin=compiled.asm["cubin"],
        warps=metadata.num_warps,
        shared_bytes=metadata.shared,
        scratch_bytes=metadata.global_scratch_size or 0,
        scratch_align=metadata.global_scratch_align or 1,
    )
