"""What engines are built with and for, and around what."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch._dynamo.convert_frame import compile_lock

from bridge.base import third_party_output
from bridge.config import Config
from bridge.core import libraries
from bridge.doors import measured_lowerings
from bridge.doors.lowering_choice import Choice, choose
from bridge.doors.measured_lowerings import Measurement
from bridge.graph.linear_time import in_linear_time
from bridge.graph.pooled_extents import of_any_extents
from bridge.graph.recurrent import of_any_batch
from bridge.graph.upsampling import of_any_channels
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour, detect
from bridge.tensorrt.install.target import resolve_target
from bridge.tensorrt.network.op_converter import own_conversion
from bridge.tensorrt.plugins.fields import Call
from bridge.tensorrt.plugins.registration import load_library


@dataclass(frozen=True)
class Session:
    """What engines are built with and for. measured: what bridge.tune found, by kind of call."""

    config: Config
    flavour: Flavour
    target: str
    measured: Mapping[str, Measurement] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> "Session":
        """Of a config, here. FlavourError, TargetError, LibraryError: there is no such TensorRT, GPU or library."""
        flavour = detect(config.flavour)
        target = resolve_target(flavour, config.target)
        load_library(flavour.trt(), libraries.plugin_library())
        here = torch.cuda.get_device_name() if target == gpu.current_target() else None
        return cls(config, flavour, target, measured_lowerings.recall(config, flavour, target, here))

    def choose(self, calls: Sequence[Call]) -> list[Choice]:
        """The lowering of each call. UnsupportedOpError: the setting asks for one that it cannot have."""
        return choose(calls, self.config, self.flavour, self.measured)

    @contextlib.contextmanager
    def converting(self) -> Iterator[None]:
        """Within it graphs are captured and converted, by one thread at a time.

        torch.export and torch_tensorrt keep state in globals. The lock is torch.compile's own: a thread that comes
        from there holds it already, and a second lock could be taken in the other order.
        """
        with contextlib.ExitStack() as stack:
            quiets = (third_party_output.quiet_logs(), third_party_output.quiet_copies())
            patched = (gpu.without_gpu(), of_any_channels(), of_any_extents(), of_any_batch(), in_linear_time())
            for within in (compile_lock, *quiets, *patched):
                stack.enter_context(within)
            stack.enter_context(own_conversion(self.flavour))
            yield
