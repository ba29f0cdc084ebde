"""Compares the plugins of Inductor's kernels with PyTorch where they are built for the GPU at hand."""

import datetime
import functools
from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils._python_dispatch import _disable_current_modes

from bridge.base import cache_folder, log
from bridge.doors.comparison import marks
from bridge.doors.comparison.comparison import Compared, Comparison
from bridge.errors import BuildError
from bridge.generate.generated_op import GeneratedOp
from bridge.generate.inductor import wrote_all
from bridge.generate.tracing.trace import Call
from bridge.tensorrt.install.gpu import current_target
from bridge.tensorrt.plugins import plugin_object
from bridge.tensorrt.plugins.plugin_run import PluginRunError, run_plugin

_MOST = 1 << 27  # elements of a call
_BYTES_EACH = 256  # of free memory: tensors in float64, several at a time


def compare(op: GeneratedOp, call: Call, target: str) -> None:
    """Compares a generated op with the call that it was made from, once for its library in the cache and a GPU.

    No-op where another GPU is the target; and where kernels are the operator's own, for PyTorch runs the same ones.
    BuildError: a result is wrong, or the plugin fails.
    """
    if target != current_target() or op.instance is None or not wrote_all(op.instance):
        return
    folder, name = op.library.directories()[0], torch.cuda.get_device_name()
    if not _is_from_cache(folder) or marks.found(folder, op.local_name, name) or not _is_offered(op):
        return
    with log.step(f"comparing {op.operator} with PyTorch") as note:
        found = _compared(op, call)
        torch.cuda.empty_cache()
        note(found.reason or f"{len(found.shapes)} shapes, error {found.error:.1e}")
    if not found.shapes and not found.reason:
        return  # there may be memory another time
    day = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    marks.keep(folder, op.local_name, name, {"date": day, "torch": torch.__version__, **asdict(found)})


def _is_from_cache(folder: Path) -> bool:
    return folder.is_relative_to(cache_folder.folder_of().absolute())


def _is_offered(op: GeneratedOp) -> bool:
    """Whether the library's own plugin is what runs: TensorRT may have the same one from another library already."""
    return op.local_name in plugin_object.creators(op.library.plugin_library())


def _compared(op: GeneratedOp, call: Call) -> Compared:
    assert op.instance is not None
    device = torch.device("cuda", torch.cuda.current_device())
    most = min(_MOST, torch.cuda.mem_get_info(device)[0] // _BYTES_EACH)
    run = functools.partial(run_plugin, op.library.plugin_library(), op.local_name)
    try:
        with _disable_current_modes(), torch.no_grad(), torch.autocast("cuda", enabled=False):
            return Comparison(call, op.instance, run, device, most).result()
    except PluginRunError as error:
        raise BuildError(f"{op.operator}: its generated plugin cannot be compared with PyTorch: {error}") from error
    except torch.AcceleratorError as error:
        first = str(error).partition("\n")[0]
        raise BuildError(
            f"{op.operator}: the GPU fails in PyTorch while its generated plugin is compared: {first}; in a new process"
            " check_generated=False leaves that out"
        ) from error
    except BuildError as error:
        raise BuildError(f"{error}{_way_out(op)}") from error


def _way_out(op: GeneratedOp) -> str:
    where = f"on {torch.cuda.get_device_name()}; its sources are in {op.defined_in}"
    return f" ({where}). The setting check_generated=False takes it as it is."
