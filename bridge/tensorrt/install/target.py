"""The GPU that an engine is built for."""

import re

from bridge.errors import TargetError
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour


def resolve_target(flavour: Flavour, target: str | None) -> str:
    """The compute capability to build for, such as "sm86"; None means that of the current GPU.

    Raises:
        TargetError: it is no compute capability, this flavour does not build for it here, or there is no current GPU.
    """
    current = gpu.current_target()
    if target is None:
        if current is None:
            raise TargetError(f"there is no GPU here to build for; {_targets_text(flavour)}")
        return current
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", target.strip().lower())
    if match is None:
        raise TargetError(
            f'target {target!r} is no compute capability such as "sm86" or "8.6"; {_targets_text(flavour)}'
        )
    name = f"sm{match[1]}{match[2]}"
    if name != current and name not in cross_targets(flavour):
        raise TargetError(f"{flavour.name} {flavour.version} does not build for {name} here; {_targets_text(flavour)}")
    return name


def cross_targets(flavour: Flavour) -> list[str]:
    """The compute capabilities that this flavour builds for on any machine."""
    if not flavour.traits.builds_without_gpu:
        return []
    members = flavour.trt().ComputeCapability.__members__
    return [member.lower() for member in members if re.fullmatch(r"SM\d+", member)]


def _targets_text(flavour: Flavour) -> str:
    targets = cross_targets(flavour)
    if targets:
        return f"pass target= one of {', '.join(targets)}, or None for the GPU of this machine"
    return f"{flavour.name} builds for the GPU of this machine alone: pass target=None on a machine with one"
