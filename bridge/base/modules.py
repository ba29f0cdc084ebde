"""Discovers the modules of a package, so that no list names them."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules_of(package: str) -> Iterator[tuple[str, ModuleType]]:
    """Imports the direct submodules of a package; yields (short name, module), sorted by name."""
    for each in pkgutil.iter_modules(importlib.import_module(package).__path__):
        yield each.name, importlib.import_module(f"{package}.{each.name}")
