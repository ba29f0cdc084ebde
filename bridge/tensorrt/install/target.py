"""The GPU that an engine is built for."""

import re

from bridge.errors import TargetError
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour


def resolve_target(flavour: Flavour, target: str | None) -> str:
    """The compute capability to build for, such as "sm86"; None means that of the current GPU.

    Raises:
        TargetError: it is not written like one, this flavour does not build for it here, or there is no current GPU.
    """
    current = gpu.current_target()
    if target is None:
        if current is None:
            raise TargetError(f"there is no GPU here to build for; {_ways(flavour)}")
        return current
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", target.strip().lower())
    if match is None:
        raise TargetError(f'target {target!r} is no compute capability such as "sm86" or "8.6"; {_ways(flavour)}')
    wanted = f"sm{match[1]}{match[2]}"
    if wanted != current and wanted not in cross_targets(flavour):
        raise TargetError(f"{flavour.name} {flavour.version} does not build for {wanted} here; {_ways(flavour)}")
    return wanted


def cross_targets(flavour: Flavour) -> list[str]:
    """The compute capabilities that this flavour builds for on any machine."""
    if not flavour.kind.builds_without_gpu:
        return []
    members = flavour.trt().ComputeCapability.__members__
    return [name.lower() for name in members if re.fullmatch(r"SM\d+", name)]


def _ways(flavour: Flavour) -> str:
    targets = cross_targets(flavour)
    if targets:
        return f"pass target= one of {', '.join(targets)}, or None for the GPU of this machine"
    return f"{flavour.name} builds for the GPU of this machine alone: pass target=None where there is one"
