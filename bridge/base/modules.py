"""Finds the modules of a package, so that no list has to name them."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules_of(package: str) -> Iterator[tuple[str, ModuleType]]:
    """The modules and packages right below a package, imported one by one, with their short names, sorted by these."""
    for each in pkgutil.iter_modules(importlib.import_module(package).__path__):
        yield each.name, importlib.import_module(f"{package}.{each.name}")
