"""The application of examples/serve_ray on a Ray cluster of this machine, which is stopped."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from triton_server import free_ports

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "serve_ray"
FOLDER = Path(sys.prefix, "ray")  # `make ray` installs it here
READY = 120  # seconds


def missing() -> str | None:
    """Why there is no Ray here, or None."""
    return None if FOLDER.exists() else f"no Ray in {FOLDER}: make ray"


@contextlib.contextmanager
def serving(log: Path, *, least=1, replicas=1, ongoing=128, queue=1024, engine=None):
    """The address of the application, see ray_application.py."""
    (port,) = free_ports(1)
    paths = [str(FOLDER), str(EXAMPLE), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
    arguments = [port, least, replicas, ongoing, queue, *([engine] if engine else [])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with log.open("w") as file:
        command = [sys.executable, "-m", "ray_application", *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, stderr=file, **pipes)
    try:
        _wait(process, log)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen, log: Path) -> None:
    """Until the application says that it is ready."""
    said = None
    while said != "ready\n":
        readable = select.select([process.stdout], [], [], READY)[0]
        said = process.stdout.readline() if readable else ""
        assert said, log.read_text()[-3000:]
