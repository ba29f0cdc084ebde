"""The native libraries that `bridge doctor` and `bridge ops` show: where they are, what they hold, what is wrong."""

from bridge.core import libraries
from bridge.core.device_code import device_codes, is_compiled_fast
from bridge.core.library import KINDS, LIBRARIES, Library, check_schemas
from bridge.errors import BridgeError, LibraryError

State = dict[str, str]


def states() -> dict[str, State]:
    """The "path" and the "state" of each file of every library, by the file's name; bridge's first.

    Installed libraries are imported; one that does not import has its namespace for a name.
    """
    libraries.load_installed()
    table = {each.file_name(kind): _state(each, kind) for each in LIBRARIES.values() for kind in KINDS}
    broken = {name: {"path": "not loaded", "state": reason} for name, reason in libraries.BROKEN.items()}
    return table | broken


def kernels_text(library: Library) -> str:
    """Which ops have CUDA kernels. LibraryError: some have not, which should."""
    registered = sorted(name for name, op in library.ops.items() if op.has_cuda_kernel)
    missing = sorted(library.ops.keys() - set(registered))
    if missing:
        reason = library.problem_of(missing[0]) or "it did not load, or is older than the ops"
        raise LibraryError(f"no CUDA kernels of {', '.join(missing)}: {reason}")
    return f"CUDA kernels of {', '.join(registered)}"


def _state(library: Library, kind: str) -> State:
    path = library.find(kind)
    if path is None:
        return {"path": "not found", "state": f"{library.missing_text(kind)}; {library.remedy}"}
    try:
        holds = kernels_text(library) if kind == "torch" else _plugins_text(library)
    except BridgeError as error:
        return {"path": str(path), "state": " ".join(str(error).split())}
    codes = ", ".join(map(str, device_codes(path))) or "no known GPU"
    fast = ", slow, by BRIDGE_FAST_COMPILE" if is_compiled_fast(path) else ""
    return {"path": str(path), "state": f"{holds}; code for {codes}{fast}; of {library.origin}"}


def _plugins_text(library: Library) -> str:
    schemas = library.plugins().schemas
    check_schemas(library.ops, schemas)
    return f"plugins {', '.join(sorted(schemas))}; their schemas match the ops"
