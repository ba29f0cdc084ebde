"""Catches the launches of Triton kernels while a function is traced: nothing runs, and no GPU is needed.

All that bridge knows of how Triton calls a kernel is here. Known to work with Triton 3.6 and 3.8.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.base.patches import replace, replace_everywhere
from bridge.errors import UnsupportedOpError
from bridge.generate.native.triton_private import unwrap

Grid = tuple[Any, Any, Any]

_NO_OPTIONS = {"debug", "instrumentation_mode", "warmup", "grid", "stream", "device"}  # those that change no code


@dataclass(frozen=True)
class CaughtConfiguration:
    """A kernel's arguments by parameter, what it is compiled with, and its programs along x, y and z."""

    arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    grid: Grid


@dataclass(frozen=True)
class CaughtLaunch:
    """A launch. kernel: the JITFunction. configurations: several where it is autotuned."""

    kernel: Any
    configurations: tuple[CaughtConfiguration, ...]


_lock = threading.Lock()
_state = threading.local()


@contextlib.contextmanager
def catching_launches(take: Callable[[CaughtLaunch], None]) -> Iterator["Catcher"]:
    """The context in which this thread's launches go to `take`, and those of other threads run as ever."""
    with _installed():
        before = getattr(_state, "catcher", None)
        _state.catcher = Catcher(take)
        try:
            yield _state.catcher
        finally:
            _state.catcher = before


@contextlib.contextmanager
def redirecting_launches(
    wanted: Callable[[tuple[Any, ...], Mapping[str, Any]], bool],
    launch: Callable[[Any, Any, tuple[Any, ...], Mapping[str, Any]], None],
) -> Iterator[None]:
    """The context in which this thread's launches whose arguments are wanted go to `launch`.

    It is given the kernel, the grid, and the arguments. An autotuned kernel comes with all configurations.
    """
    thread = threading.get_ident()

    def redirect(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        mine = threading.get_ident() == thread and not is_catching()
        if not (mine and wanted(args, kwargs)):
            return False
        launch(kernel, grid, args, kwargs)
        return True

    with contextlib.ExitStack() as stack:
        _intercept(stack, redirect)
        yield


def is_catching() -> bool:
    """Whether this thread is within `catching_launches`."""
    return getattr(_state, "catcher", None) is not None


class Catcher:
    """Takes launches. tried: whether there was one, though it may have failed."""

    def __init__(self, take: Callable[[CaughtLaunch], None]) -> None:
        self._take = take
        self.tried = False

    def launch(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Takes one. UnsupportedOpError: it is none that a plugin can do."""
        self.tried = True
        alternatives = list(_alternatives(kernel, grid, args, kwargs))
        self._take(CaughtLaunch(alternatives[0][0], tuple(each for _, each in alternatives)))


def _alternatives(
    kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Any, CaughtConfiguration]]:
    """What a launch may become: one way, or one for each configuration that a tuner has after pruning.

    Tuners and heuristics wrap a kernel in any order. Other wrappers, such as caches of compiled kernels, are passed
    over.
    """
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    if isinstance(kernel, JITFunction):
        yield kernel, _bind(kernel, args, grid, kwargs)
    elif isinstance(kernel, Autotuner):
        for configuration in _pruned(kernel, args, kwargs):
            if configuration.pre_hook is not None:
                raise UnsupportedOpError(
                    f"{_name(kernel)} has a configuration with a pre_hook, which runs Python before each launch"
                )
            yield from _alternatives(kernel.fn, grid, args, {**kwargs, **configuration.all_kwargs()})
    else:
        inner, known = without_heuristics(kernel, args, kwargs)
        yield from _alternatives(inner, grid, args, known)


def without_heuristics(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The tuner or the kernel within heuristics and other wrappers, and the arguments with what heuristics add."""
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction

    known = dict(kwargs)
    while not isinstance(kernel, (Autotuner, JITFunction)):
        for name, value_of in (kernel.values if isinstance(kernel, Heuristics) else {}).items():
            known[name] = value_of({**dict(zip(kernel.arg_names, args, strict=False)), **known})
        kernel = kernel.fn
    return kernel, known


def _pruned(tuner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
    try:
        return list(tuner.prune_configs(dict(kwargs)))
    finally:
        tuner.nargs = None


def base_name(kernel: Any) -> str:
    """The name of a kernel, which may be wrapped by a tuner."""
    while not hasattr(kernel, "__name__") and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return str(getattr(kernel, "__name__", kernel))


def _name(kernel: Any) -> str:
    return f"the Triton kernel {base_name(kernel)}"


def _bind(kernel: Any, args: tuple[Any, ...], grid: Any, kwargs: Mapping[str, Any]) -> CaughtConfiguration:
    """Sorts what a launch is given into arguments, defaults included, and options."""
    names = {parameter.name for parameter in kernel.params}
    given = {name: value for name, value in kwargs.items() if name in names}
    options = {name: value for name, value in kwargs.items() if name not in names | _NO_OPTIONS}
    try:
        bound = inspect.signature(kernel.fn).bind(*args, **given)
    except TypeError as error:
        raise UnsupportedOpError(
            f"{_name(kernel)} is launched with arguments that it does not take: {error}"
        ) from error
    bound.apply_defaults()
    arguments = {name: unwrap(value) for name, value in bound.arguments.items()}
    programs = tuple(grid(arguments) if callable(grid) else grid if isinstance(grid, (tuple, list)) else (grid,))
    return CaughtConfiguration(arguments, options, (*programs, 1, 1, 1)[:3])


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Triton's entry points ask whether the thread catches; one installation at a time, others wait."""
    from torch._library.triton import set_wrap_triton_enabled

    with _lock, contextlib.ExitStack() as stack:
        _intercept(stack, _launch_if_catching)
        stack.enter_context(_power_of_two())
        stack.enter_context(set_wrap_triton_enabled(False))
        yield


def _launch_if_catching(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    catcher = getattr(_state, "catcher", None)
    if catcher is not None:
        catcher.launch(kernel, grid, args, kwargs)
    return catcher is not None


Take = Callable[[Any, Any, tuple[Any, ...], Mapping[str, Any]], bool]


def _intercept(stack: contextlib.ExitStack, take: Take) -> None:
    """Has every launch ask `take` first, which returns whether it took it. kernel[grid] is one, and kernel.run is."""
    from triton.runtime.jit import KernelInterface

    for kind in (KernelInterface, *_subclasses(KernelInterface)):
        if "__getitem__" in vars(kind):
            replace(stack, kind, "__getitem__", _launcher(vars(kind)["__getitem__"], take))
        if "run" in vars(kind):
            replace(stack, kind, "run", _runner(vars(kind)["run"], take))


def _launcher(original: Any, take: Take) -> Any:
    def get_item(self: Any, grid: Any) -> Any:
        launch = original(self, grid)
        return lambda *args, **kwargs: None if take(self, grid, args, kwargs) else launch(*args, **kwargs)

    return get_item


def _runner(original: Any, take: Take) -> Any:
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {name: value for name, value in kwargs.items() if name not in ("grid", "warmup")}
        if not kwargs.get("warmup") and "grid" in kwargs and take(self, kwargs["grid"], args, given):
            return None
        return original(self, *args, **kwargs)

    return run


def _subclasses(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


@contextlib.contextmanager
def _power_of_two() -> Iterator[None]:
    """triton.next_power_of_2 of a symbolic extent: a number, guarded by the two bounds that the extent lies between."""
    import torch
    import triton

    original = triton.next_power_of_2

    def next_power_of_2(n: Any) -> Any:
        if not isinstance(n, torch.SymInt):
            return original(n)
        power = original(n.node.hint)
        return power if power // 2 < n <= power else original(int(n))  # the comparison adds the guards

    with contextlib.ExitStack() as stack:
        replace_everywhere(stack, "triton", original, next_power_of_2)
        yield
