"""Generated libraries of plugins: built with the C++ compiler alone, without a GPU, and kept by content.

A library is a folder <cache>/generated/<namespace>/<key>, where the key stands for its instances, targets and bridge's
native sources. It holds

    lib<namespace>_plugins.so
    library.json    what is in it, see `report`
    sources/        an op struct for every instance, and its kernels as fat binaries

Beside them are <cache>/generated/triton, with Triton's compiled kernels, and bridge's own objects; see cache.py.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bridge.base import log
from bridge.base.files import sha256
from bridge.base.locks import locked
from bridge.errors import BuildError, TargetError, UnsupportedOpError
from bridge.generate import cache
from bridge.generate.folders import DESCRIPTION, is_whole
from bridge.generate.native.canonical import digest as digest
from bridge.generate.native.canonical import made_by
from bridge.generate.native.canonical import namespace_of as namespace_of
from bridge.generate.native.canonical import plugin_name as plugin_name
from bridge.generate.native.compiler import Compiler, cache_folder_of
from bridge.generate.native.emit import file_of, op_source
from bridge.generate.native.kernels import SHARED_BYTES, Library
from bridge.generate.native.plan import Plan
from bridge.generate.native.report import report
from bridge.generate.program import Instance


def build(instances: Sequence[Instance], targets: Sequence[str], *, tactics: bool = True) -> Path:
    """The folder of a library with the plugins of some instances of one namespace; it is built where it is not cached.

    Args:
        instances: each gives a plugin called `plugin_name`.
        targets: GPUs to compile for, such as ["sm86", "sm120"].
        tactics: whether an autotuned kernel has all configurations that fit; else the first ones with which every
            target has one.

    Raises:
        BuildError: Triton does not compile a kernel.
        UnsupportedOpError: an instance cannot be a plugin.
        LibraryError: a tool is missing, or the cache's folder cannot be used.
        TargetError: a target is none.
    """
    capabilities = capabilities_of(targets)
    namespace, by_name = _by_name(instances)
    described = [list(by_name), capabilities, tactics, made_by(), os.environ.get("CXX", "")]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:24]
    root, limit = cache_folder_of(cache.root_of()), cache.default_size()
    folder = root / namespace / key
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with locked(folder.with_suffix(".lock"), f"plugins of {namespace} are being built by another process"):
        is_new = not is_whole(folder, namespace)
        if is_new:
            with log.step(f"generating {', '.join(by_name)}"):
                _build(root, namespace, list(by_name.values()), capabilities, folder, tactics)
        os.utime(folder)  # used last now
    if is_new:
        cache.prune(root, limit)
    log.logger.debug("sources of %s: %s", ", ".join(by_name), folder / "sources")
    return folder


def build_anew(instances: Sequence[Instance], targets: Sequence[str], folder: Path) -> None:
    """As `build`, but into a new folder: the cache keeps nothing but the compiled kernels."""
    namespace, by_name = _by_name(instances)
    root, limit = cache_folder_of(cache.root_of()), cache.default_size()
    _build(root, namespace, list(by_name.values()), capabilities_of(targets), folder, tactics=True)
    cache.prune(root, limit)


def _by_name(instances: Sequence[Instance]) -> tuple[str, dict[str, Instance]]:
    """The one namespace of some instances, and each of them once by its plugin's name, in the names' order."""
    by_name = dict(sorted({plugin_name(each): each for each in instances}.items()))
    (namespace,) = {namespace_of(each) for each in by_name.values()}
    return namespace, by_name


def capabilities_of(targets: Sequence[str]) -> list[int]:
    """Targets as numbers, such as 86, sorted. TargetError: one is none that Triton compiles for."""
    for target in targets:
        if not (target.startswith("sm") and target[2:].isdigit() and int(target[2:]) in SHARED_BYTES):
            known = ", ".join(f"sm{capability}" for capability in SHARED_BYTES)
            raise TargetError(f"the target is {target!r}; Triton's kernels are compiled for {known}")
    if not targets:
        raise TargetError("no target is given to compile kernels for")
    return sorted({int(target[2:]) for target in targets})


def _build(
    root: Path,
    namespace: str,
    instances: Sequence[Instance],
    capabilities: list[int],
    folder: Path,
    tactics: bool,
) -> None:
    started = time.monotonic()
    compiler = Compiler(root)  # before the kernels, for a compiler that is missing is found at once
    kernels = Library(capabilities, root / cache.TRITON)
    with ThreadPoolExecutor(1) as beside:
        host = beside.submit(compiler.host_object)  # takes seconds the first time, as kernels do
        ops = [_generate(instance, kernels, tactics) for instance in instances]
    host.result()
    compiled = time.monotonic()
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        sources = [_write_sources(plan, text, new / "sources") for plan, text in ops]
        library = new / f"lib{namespace}_plugins.so"
        compiler.library(namespace, sources, library)
        seconds = {"kernels": compiled - started, "library": time.monotonic() - compiled}
        description = report(namespace, [plan for plan, _ in ops], capabilities, seconds) | {"sha256": sha256(library)}
        (new / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        _publish(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _generate(instance: Instance, kernels: Library, tactics: bool = True) -> tuple[Plan, str]:
    """The kernels of an instance, and its op struct; errors name the operator."""
    try:
        plan = Plan(instance, kernels, tactics)
        return plan, op_source(plan)
    except (BuildError, UnsupportedOpError) as error:
        raise type(error)(f"{instance.operator}: {error}") from error


def _write_sources(plan: Plan, text: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for kernel in plan.kernels:
        (folder / file_of(plan.name, kernel)).write_bytes(kernel.fat_binary)
    source = folder / f"{plan.name}.cpp"
    source.write_text(text, encoding="utf-8")
    return source


def _publish(new: Path, folder: Path) -> None:
    """Puts a folder in place. What is damaged there goes: a process that has loaded it keeps what it mapped."""
    if folder.exists():
        old: Any = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
        folder.rename(old / folder.name)
        shutil.rmtree(old, ignore_errors=True)
    new.rename(folder)
