"""What one run of the tests makes once for all of its processes; the next run begins anew."""

import functools
import os
from pathlib import Path

from bridge.base.locks import locked
from bridge.generate.native.compiler import Compiler


def folder_of_run(tmp_path_factory) -> Path:
    """The temporary folder of a run, which its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def share_host_objects(patch, folder: Path) -> None:
    """Has every cache take bridge's own sources as compiled for the first one. Their name stands for all they are."""
    folder.mkdir(exist_ok=True)
    patch.setattr(Compiler, "host_object", functools.partialmethod(_host_object, Compiler.host_object, folder))


def _host_object(compiler, compile_one, folder):
    with locked(folder / "lock", "bridge's native sources are being compiled for another test"):
        link_host_objects(folder, compiler._folder)
        host = compile_one(compiler)
        if not (folder / host.name).exists():
            os.link(host, folder / host.name)
    return host


def link_host_objects(folder: Path, cache: Path) -> None:
    """Gives a cache's folder of generated libraries the objects that there are."""
    for each in folder.glob("host-*.o"):
        if not (cache / each.name).exists():
            os.link(each, cache / each.name)
