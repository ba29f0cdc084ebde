"""What an engine needs of libraries: their plugins, in the version that it was built with, with code for its target."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bridge.base.files import sha256
from bridge.core.device_code import device_codes, lacking_text
from bridge.core.library import Library
from bridge.core.op import Op
from bridge.errors import TargetError


@dataclass(frozen=True)
class Requirement:
    """A library that an engine needs. file: the name of the library of plugins; sha256: of its content. origin: the
    package that it came from, with its version, or the script."""

    namespace: str
    file: str
    sha256: str
    origin: str


def libraries_of(ops: Iterable[Op]) -> list[Library]:
    """The libraries of ops, each once, in an order that stays."""
    found = {op.library.key: op.library for op in ops}
    return [found[key] for key in sorted(found)]


def requirements(libraries: Iterable[Library]) -> list[Requirement]:
    """What an engine with plugins of these libraries needs. LibraryError: one has no library of plugins."""
    pairs = [(each, each.plugin_library()) for each in libraries]
    return [Requirement(each.namespace, path.name, sha256(path), each.origin) for each, path in pairs]


def check_targets(ops: Collection[Op], target: str | None) -> None:
    """TargetError: a plugin's library holds no code that runs on the target. None: it is not known, and not checked."""
    if target is None:
        return
    for library in libraries_of(ops):
        path = library.plugin_library()
        if lacking := lacking_text(device_codes(path), target):
            users = ", ".join(sorted({op.name for op in ops if op.library is library}))
            capability = target.removeprefix("sm")
            raise TargetError(
                f"{users}: {path} holds {lacking}. Build the library for it: BRIDGE_CUDA_ARCHITECTURES="
                f'"{capability}" pip install --force-reinstall --no-deps . (a list such as "86;{capability}" for '
                "several), or compile for another target"
            )
