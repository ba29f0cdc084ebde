"""What one run of the tests makes once for all of its processes; the next run begins anew."""

import functools
import hashlib
import os
from pathlib import Path
from unittest import mock

from bridge.base.locks import locked
from bridge.generate.native.compiler import Compiler


def folder_of_run(tmp_path_factory) -> Path:
    """The temporary folder of a run, which its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def share_host_objects(patch, folder: Path) -> None:
    """Has every cache take bridge's own sources as compiled for the first one. Their name stands for all they are.

    Op structs are compiled with precompiled headers, which take half of the time of each, and change no byte of them.
    """
    folder.mkdir(exist_ok=True)
    patch.setattr(Compiler, "host_object", functools.partialmethod(_host_object, Compiler.host_object, folder))
    patch.setattr(Compiler, "_compile", functools.partialmethod(_with_headers, Compiler._compile, folder))


def _host_object(compiler, compile_one, folder):
    with locked(folder / "lock", "bridge's native sources are being compiled for another test"):
        link_host_objects(folder, compiler._folder)
        host = compile_one(compiler)
        if not (folder / host.name).exists():
            os.link(host, folder / host.name)
    return host


_HEADERS = "".join(f"#include <bridge/{name}.h>\n" for name in ("core/op", "triton/checks", "triton/queue"))


def _with_headers(compiler, compile_all, folder, jobs, objects):
    """The compiler passes over precompiled headers that are not for its flags."""
    if any(source.name == "host.cpp" for source, _ in jobs):
        return compile_all(compiler, jobs, objects)
    name = hashlib.sha256(repr([compiler._command, compiler._flags]).encode()).hexdigest()[:24]
    header, compiled = folder / f"{name}.h", folder / f"{name}.h.gch"
    with locked(folder / "headers.lock", "bridge's headers are being compiled for another test"):
        if not compiled.exists():
            header.write_text(_HEADERS)
            command = [*compiler._command, *compiler._flags, "-x", "c++-header", header, "-o", f"{compiled}.new"]
            compiler._run(command, header.name)
            Path(f"{compiled}.new").rename(compiled)
    with mock.patch.object(compiler, "_flags", [*compiler._flags, "-include", str(header)]):
        return compile_all(compiler, jobs, objects)


def link_host_objects(folder: Path, cache: Path) -> None:
    """Gives a cache's folder of generated libraries the objects that there are."""
    for each in folder.glob("host-*.o"):
        if not (cache / each.name).exists():
            os.link(each, cache / each.name)
