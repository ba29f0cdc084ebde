"""A Triton Inference Server of this machine: started on loopback, on free ports, and stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(sys.prefix, "tritonserver")  # `make tritonserver` installs server and client here
BINARIES = FOLDER / "server" / "pytriton" / "tritonserver"
READY = 120  # seconds until it answers: instances warm up before


def missing() -> str | None:
    """Why there is no server here, or None."""
    return None if (BINARIES / "bin" / "tritonserver").exists() else f"no server in {FOLDER}: make tritonserver"


@dataclass(frozen=True)
class Server:
    """A server that runs. http, grpc: its addresses. log: what it says."""

    process: subprocess.Popen
    http: str
    grpc: str
    log: Path

    def is_live(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(OSError, urllib.error.URLError):
            return urllib.request.urlopen(f"http://{self.http}/v2/health/live", timeout=5).status == 200
        return False

    def stop(self, number=signal.SIGTERM) -> None:
        """Ends it with its instances, which are processes of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def serving(repository: Path, log: Path, *options: str, **variables: str):
    """A server of a model repository. options: of its command line. variables: of its environment."""
    server = start(repository, log, *options, **variables)
    try:
        deadline = time.monotonic() + READY
        while not server.is_live():
            assert server.process.poll() is None and time.monotonic() < deadline, errors_text(log)
            time.sleep(0.1)
        yield server
    finally:
        server.stop()


def start(repository: Path, log: Path, *options: str, **variables: str) -> Server:
    """A server that may not answer yet."""
    http, grpc = free_ports(2)
    command = [
        BINARIES / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={BINARIES / 'backends'}",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--disable-auto-complete-config", "--exit-timeout-secs=5"),
        *options,
    ]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment() | variables, start_new_session=True
        )
    return Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)


def errors_text(log: Path) -> str:
    """The errors in a server's log."""
    return "\n".join(line for line in log.read_text().splitlines() if line.startswith(("E", "error:")))


def environment() -> dict[str, str]:
    """As docs/serving.md has it: the instances of the Python backend are of the first python3 on PATH."""
    paths = {"PATH": str(Path(sys.executable).parent), "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}
    return os.environ | {
        name: os.pathsep.join(filter(None, [folder, os.environ.get(name)])) for name, folder in paths.items()
    }


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
