"""Fresh processes in which nothing but parts of torch is imported: they are forked from one that waits, which spares
each the imports: 1.4 s of CPU for torch, 2 s more for what traces and compiles."""

import functools
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

TORCH = ("torch",)
COMPILER = (*TORCH, "torch._dynamo", "torch.export._trace", "torch._inductor.graph")
"""What torch_tensorrt, and a compilation by bridge, import of torch. Triton is with them, which is not interpreted."""

# The child ends as `python -c` does: with its output flushed, its exit handlers called, its traceback printed.
_SERVER = """
import gc, importlib, json, os, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
gc.collect()
gc.freeze()  # torch's own objects: no collection of a child reads them, which would copy their memory
gc.set_threshold(100_000, 20, 100)  # as in conftest.py

def serve():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)

def become(code, arguments, environment, path, streams):
    for number, stream in enumerate(streams):
        descriptor = os.open(stream, os.O_RDWR)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:], sys.path[:] = arguments, path
    return compile(code, "<string>", "exec")

exec(become(**serve()), {"__name__": "__main__"})
"""


def run(code, *arguments, imported=TORCH, timeout=300, **variables):
    """What a fresh process did that runs `code`, for which sys.argv[1:] are the arguments.

    imported: TORCH or COMPILER. variables: of its environment, beside those of this process; those that are None are
    taken away.
    """
    environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.devnull, f"{folder}/stdout", f"{folder}/stderr"]
        for stream in streams[1:]:
            Path(stream).touch()
        path = ["", *filter(None, sys.path)]
        request = {"code": code, "arguments": [*map(str, arguments)], "environment": environment, "path": path}
        returncode = _ask(imported, json.dumps(request | {"streams": streams}), timeout)
        stdout, stderr = (Path(stream).read_text() for stream in streams[1:])
    return subprocess.CompletedProcess(code, returncode, stdout, stderr)


def _ask(imported, request, timeout):
    server = _server(imported)
    print(request, file=server.stdin, flush=True)
    if not select.select([server.stdout], [], [], timeout)[0]:
        _server.cache_clear()
        os.killpg(server.pid, 9)  # of its own group, with its child
        raise subprocess.TimeoutExpired(request, timeout)
    return int(server.stdout.readline())


@functools.cache
def _server(imported):
    command = [sys.executable, "-c", _SERVER, *imported]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
