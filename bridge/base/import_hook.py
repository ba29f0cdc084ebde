"""Does something around the import of a module, whoever imports it, without importing it."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Around = Callable[[], contextlib.AbstractContextManager[None]]


class Finder(MetaPathFinder):
    """For sys.meta_path: finds the module as the other finders do, and runs it within `around`."""

    def __init__(self, name: str, around: Around) -> None:
        self.name = name
        self._around = around

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that does more."""
        if fullname != self.name:
            return None
        for finder in [finder for finder in sys.meta_path if not isinstance(finder, Finder)]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                spec.loader = spec.loader and _Loader(spec.loader, self._around)
                return spec
        return None


class _Loader(Loader):
    """Another loader, which the module shows as its own once it runs."""

    def __init__(self, loader: Any, around: Around) -> None:
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
    """Makes imports go by a finder, before any other that is there."""
    sys.meta_path.insert(0, finder)


def remove(finder: Finder) -> None:
    """Undoes `install`."""
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def installed(name: str, around: Around) -> Iterator[None]:
    """Within it the import of a module runs within `around`, or as a finder that is there already wants it."""
    if any(isinstance(finder, Finder) and finder.name == name for finder in sys.meta_path):
        yield
        return
    finder = Finder(name, around)
    install(finder)
    try:
        yield
    finally:
        remove(finder)
