"""`bridge eject`: a generated plugin becomes a project of the user's own."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.base.text import listing
from bridge.errors import LibraryError, UnknownNameError

if TYPE_CHECKING:
    from bridge.generate.folders import Generated

DESCRIPTION = (
    "Copy the library of a generated plugin into a new folder, as a CMake project to keep and to edit. `bridge ops\n"
    "--generated` lists what there is.\n\n"
    "Example: bridge eject acme_norm::gated_rms_norm -o norm_plugin"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("name", metavar="NAME", help="a plugin, or the operator of a single one")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="a folder that does not exist")
    parser.add_argument("--target", metavar="SM", help="of a library with code for this GPU, such as sm86")


def run(options: argparse.Namespace) -> int:
    """Copies, says what to do next, and returns the exit code."""
    from bridge.generate.native.eject import eject

    library = find(options.name, options.target)
    for path in eject(library.path, options.output):
        print(path)
    print(
        f"Change the op structs in {options.output / 'csrc'}. To build: cmake -S {options.output} -B build "
        '-Dbridge_DIR="$(bridge cmake-dir)" && cmake --build build; then name build/lib in BRIDGE_GENERATED_PATH.'
    )
    return 0


def find(name: str, target: str | None) -> "Generated":
    """The library of a plugin, or of an operator that has a single one; the one that was used last.

    UnknownNameError: there is none. LibraryError: none has code for the target, or an operator has several plugins.
    """
    from bridge.generate import folders

    known = [(library, op) for library in folders.whole() for op in library.ops]
    named = [(library, op) for library, op in known if name in (op["name"], _full_name(library, op), op["operator"])]
    if not named:
        names = sorted({_full_name(library, op) for library, op in known})
        raise UnknownNameError(f"no generated plugin is called {name}; there are {listing(names, name)}")
    found = [(library, op) for library, op in named if library.lacking_text(target) is None]
    if not found:
        targets = ", ".join(sorted({each for library, _ in named for each in library.description["targets"]}))
        raise LibraryError(f"no generated plugin is called {name} with code for {target}; there is code for {targets}")
    plugins = sorted({_full_name(library, op) for library, op in found})
    if len(plugins) > 1:
        raise LibraryError(f"{name} has several generated plugins, name one: {', '.join(plugins)}")
    return found[0][0]


def _full_name(library: "Generated", op: Mapping[str, Any]) -> str:
    return f"{library.namespace}::{op['name']}"
