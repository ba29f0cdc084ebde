"""A library: the ops of one namespace, with the two native libraries that hold their kernels and their plugins.

``lib<namespace>_torch.so`` holds the CUDA implementations of ``torch.ops.<namespace>``; ``lib<namespace>_plugins.so``
the same ops as TensorRT plugins. They lie in the folder ``lib`` of the Python package that defines the ops, or where
``<NAMESPACE>_LIBRARY_DIR`` points. bridge's own library is one of several.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bridge.base.package import DISTRIBUTION, __version__
from bridge.core.plugin_file import REBUILD, PluginFile, open_plugins
from bridge.errors import LibraryError, OpDefinitionError

KINDS = ("torch", "plugins")
ENTRY_POINTS = "bridge.ops"
"""The group of entry points by which installed packages make their libraries known: namespace = module."""

LISTENERS: list[Callable[["Library"], None]] = []
"""Called with a library whenever an op is added to it."""


GENERATED: set[str] = set()
"""The qualified names of plugins that are no part of their namespace's library, see bridge.generate."""


class Library:
    """The ops of one namespace. `LIBRARIES` has every one of the process.

    namespace: of the ops. module: the Python module that defined the first of them, "" before there is one. ops: by
    their names without the namespace. problems: what is wrong with the native libraries, op by op ("" for all of them):
    such an op runs on a CPU, and every other use of it is an error.
    """

    def __init__(self, namespace: str, module: str = "") -> None:
        self.namespace = namespace
        self.module = module
        self.ops: dict[str, Any] = {}
        self.problems: dict[str, str] = {}
        self.fragment = torch.library.Library(namespace, "FRAGMENT")
        self._folder: Path | None = None  # of native libraries that were built in place
        self._kernels_are_loaded = False

    @property
    def key(self) -> str:
        """What tells the library from all others: the namespace, of which there is one library, or a name in it."""
        return self.namespace

    @property
    def named_by_content(self) -> bool:
        """Whether a plugin's name stands for its content, so that two libraries may have the same one."""
        return False

    def owns(self, plugin: str) -> bool:
        """Whether a plugin of the namespace would be this library's, by its name."""
        return f"{self.namespace}::{plugin}" not in GENERATED

    @property
    def package(self) -> str:
        """The top-level package that defines the ops; "__main__" for a script's."""
        return self.module.partition(".")[0]

    @property
    def variable(self) -> str:
        """The environment variable that says where the native libraries lie."""
        return f"{self.namespace.upper()}_LIBRARY_DIR"

    @property
    def origin(self) -> str:
        """Where the library comes from, for readers: "acme-corr 0.1.0", or the package or script."""
        if self.package == __name__.partition(".")[0]:  # a search reads the files of every package: half a second
            return f"{DISTRIBUTION} {__version__}"
        points = metadata.entry_points(group=ENTRY_POINTS, name=self.namespace)
        # The entry point's first: a package that is installed editable has no files by which it would be found.
        names = [point.dist.name for point in points if point.dist] or _distributions().get(self.package, [])
        return ", ".join(f"{name} {metadata.version(name)}" for name in names) or self.module

    def file_name(self, kind: str) -> str:
        """The name of a native library's file; kind: "torch" or "plugins"."""
        return f"lib{self.namespace}_{kind}.so"

    def directories(self) -> list[Path]:
        """Where the native libraries are looked for, in order."""
        if override := os.environ.get(self.variable):
            return [Path(override)]
        return [self._folder] if self._folder else [folder / "lib" for folder in _package_folders(self.module)]

    def find(self, kind: str) -> Path | None:
        """A native library, or None: there is none."""
        name = self.file_name(kind)
        return next(((d / name).resolve() for d in self.directories() if (d / name).is_file()), None)

    @property
    def is_misplaced(self) -> bool:
        """Whether `variable` says where the native libraries lie, and the library of plugins is not there."""
        return bool(os.environ.get(self.variable)) and self.find("plugins") is None

    def plugin_library(self) -> Path:
        """Path of the library of plugins. LibraryError: it is not there."""
        path = self.find("plugins")
        if path is None:
            raise LibraryError(f"{self.missing_text('plugins')}. {self.remedy}")
        return path

    def missing_text(self, kind: str) -> str:
        """That a native library is missing, and where it was looked for."""
        searched = ", ".join(map(str, self.directories())) or f"any package, for {self.module} is in none"
        return f"{self.file_name(kind)} is not in {searched}"

    @property
    def remedy(self) -> str:
        """What to do where a native library is missing."""
        return f"Build it with `pip install .`, or set {self.variable}."

    def plugins(self) -> PluginFile:
        """The library of plugins. LibraryError: it is missing, does not load, or has the ops of another namespace."""
        plugins = open_plugins(self.plugin_library())
        if plugins.namespace != self.namespace:
            raise LibraryError(
                f"{plugins.path} holds the ops of {plugins.namespace}, expected those of {self.namespace}"
            )
        return plugins

    def has_plugin(self, op: str) -> bool:
        """Whether there is a plugin of the op, by its name without the namespace. LibraryError: see `plugins`."""
        return self.find("plugins") is not None and op in self.plugins().schemas

    def build_in_place(self, folder: Path) -> None:
        """Takes the native libraries from a folder from now on.

        Raises:
            LibraryError: kernels are loaded from elsewhere, or those in the folder do not match the ops.
        """
        if self._kernels_are_loaded and folder != self._folder:
            raise LibraryError(
                f"the kernels of {self.namespace} are loaded from {self.find('torch')} already; a process holds one "
                f"version of a library: start another to use {folder}"
            )
        self._folder = folder
        self.problems.clear()
        self._load(with_kernels=True)
        for op in self.ops.values():
            self._compare(op)
        if self.problems:
            raise LibraryError(next(iter(self.problems.values())))

    def add(self, op: Any, loads_kernels: bool = True) -> None:
        """Takes an op in, whose name is registered with torch. loads_kernels: else it has its own.

        What is wrong with its native half is kept in `problems`, with a warning: it must not stop what does not use it.
        """
        self.ops[op.local_name] = op
        self._load(loads_kernels)
        self._compare(op)
        for listener in LISTENERS:
            listener(self)
        if problem := self.problems.get(op.local_name):
            warnings.warn(f"{op.qualified_name}: {problem}", stacklevel=4)

    def _compare(self, op: Any) -> None:
        """Compares the schema of an op with its plugin's, if there is one."""
        if "" in self.problems or self.find("plugins") is None:
            return
        if problem := _mismatch(op, self.plugins().schemas):
            self.problems[op.local_name] = problem
            op.disable_kernel(problem)

    def _fail(self, problem: str) -> None:
        """Notes what is wrong with all of the native libraries, and says it once."""
        if "" not in self.problems:
            self.problems[""] = problem
            warnings.warn(f"{self.namespace}: {problem}", stacklevel=4)

    def _load(self, with_kernels: bool) -> None:
        """Checks the library of plugins; then loads the CUDA implementations into torch, once."""
        if "" in self.problems:
            return
        try:
            if self.find("plugins") is not None:
                self.plugins()
            if with_kernels and not self._kernels_are_loaded:
                self._load_kernels()
        except LibraryError as error:
            self._fail(str(error))

    def _load_kernels(self) -> None:
        path = self.find("torch")
        if path is None or torch.version.cuda is None:
            return
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            raise LibraryError(f"ops have no CUDA kernels, {path} does not load: {error}. {REBUILD}") from error
        self._kernels_are_loaded = True

    def problem_of(self, op: str) -> str | None:
        """Why the native libraries cannot be used for an op, by its name without the namespace; or None."""
        return self.problems.get("") or self.problems.get(op)


class Libraries(dict[str, Library]):
    """Every library of the process, by namespace."""

    def of(self, namespace: str, module: str) -> Library:
        """The library of a namespace, whose ops `module` defines.

        Raises:
            OpDefinitionError: another package has that namespace.
        """
        library = self.get(namespace)
        if library is None:
            library = self[namespace] = Library(namespace, module)
        library.module = library.module or module  # where bridge.load_ops came before the first op
        if library.package != module.partition(".")[0]:
            raise OpDefinitionError(
                f"the namespace {namespace} belongs to {library.origin} ({library.module}); {module} needs "
                "another, for a namespace is one library"
            )
        return library


LIBRARIES = Libraries()


def check_schemas(ops: Mapping[str, Any], schemas: Mapping[str, str]) -> None:
    """Compares the schemas of ops, by their names without the namespace, with the plugins'.

    Raises:
        LibraryError: they differ, or an op is on one side alone; the message shows both.
    """
    for name in sorted(ops.keys() | schemas.keys()):
        if name not in ops:
            raise LibraryError(f"the plugin {schemas[name]} has no op in Python. {_MEND}")
        if name not in schemas:
            raise LibraryError(f"{ops[name].name} has no plugin; there are {', '.join(sorted(schemas))}. {_MEND}")
        if problem := _mismatch(ops[name], schemas):
            raise LibraryError(problem)


_MEND = "Build the native libraries again (pip install .), or mend the side that is wrong."


def _mismatch(op: Any, schemas: Mapping[str, str]) -> str | None:
    native = schemas.get(op.local_name)
    if native is None or op.matches(native):
        return None
    return (
        f"op {op.name}: its reference and its op struct, {op.local_name}.cu, disagree.\n"
        f"  Python: {op.schema_text()}\n  native: {native}\n{_MEND}"
    )


def _package_folders(module: str) -> Iterator[Path]:
    """The folders of the packages that a module lies in, from the inside out."""
    names = module.split(".")
    for length in range(len(names), 0, -1):
        package = sys.modules.get(".".join(names[:length]))
        yield from map(Path, getattr(package, "__path__", ()))


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
