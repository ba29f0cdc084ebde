"""Discovers modules by where they are, so that no list names them."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules_of(package: str) -> Iterator[tuple[str, ModuleType]]:
    """Imports the direct submodules of a package; yields (short name, module), sorted by name."""
    for each in pkgutil.iter_modules(importlib.import_module(package).__path__):
        yield each.name, importlib.import_module(f"{package}.{each.name}")


def modules_below(package: str) -> Iterator[tuple[str, ModuleType]]:
    """The same through all subpackages, which group modules and are none of them; sorted by name."""
    found = dict(modules_of(package))
    for name, module in list(found.items()):
        if hasattr(module, "__path__"):
            found |= dict(modules_below(module.__name__))
            del found[name]
    return iter(sorted(found.items()))


def module_beside(module: str, name: str) -> ModuleType | None:
    """The module called `name`, such as "samples.corr", in the packages around a module, the innermost first; or None.

    Any exception: it is there, and does not import.
    """
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        full = ".".join([*parts[:length], name])
        if _exists(full):
            return importlib.import_module(full)
    return None


def module_below(package: str, name: str) -> ModuleType | None:
    """The module called `name` in a package or, where it has none, in one of its subpackages; or None.

    Any exception: it is there, and does not import. Modules of other names are not imported.
    """
    found = {each.name: each.ispkg for each in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    if name in found:
        return importlib.import_module(f"{package}.{name}")
    below = (module_below(f"{package}.{each}", name) for each, is_package in found.items() if is_package)
    return next(filter(None, below), None)


def _exists(name: str) -> bool:
    """Whether there is a module of that name; the packages that it would be in are imported."""
    parent = name.rpartition(".")[0]
    if parent and (not _exists(parent) or not hasattr(importlib.import_module(parent), "__path__")):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # of a module without a spec, such as a script's __main__
        return False
