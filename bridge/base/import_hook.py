"""Runs the import of a module within a context, whoever imports it, without importing it now."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ContextFactory = Callable[[], contextlib.AbstractContextManager[None]]


class Finder(MetaPathFinder):
    """A finder for sys.meta_path: finds the module by the other finders, and executes it within `around`."""

    def __init__(self, name: str, around: ContextFactory) -> None:
        self.name = name
        self._around = around

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the other finders, with a loader that enters the context."""
        if fullname != self.name:
            return None
        for finder in [finder for finder in sys.meta_path if not isinstance(finder, Finder)]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                spec.loader = spec.loader and _Loader(spec.loader, self._around)
                return spec
        return None


class _Loader(Loader):
    """Wraps a loader; once executed, the module refers to the original loader."""

    def __init__(self, loader: Any, around: ContextFactory) -> None:
        self._loader = loader
        self._around = around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader does, within `around`."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._around():
            self._loader.exec_module(module)


def install(finder: Finder) -> None:
    """Puts a finder before all others."""
    sys.meta_path.insert(0, finder)


def remove(finder: Finder) -> None:
    """Undoes `install`."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def installed(name: str, around: ContextFactory) -> Iterator[None]:
    """Within it, a module is imported within `around`; no-op if a finder for the module is installed already."""
    if any(isinstance(finder, Finder) and finder.name == name for finder in sys.meta_path):
        yield
        return
    finder = Finder(name, around)
    install(finder)
    try:
        yield
    finally:
        remove(finder)
