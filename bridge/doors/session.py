"""The session of a compilation: config, TensorRT, target, and the context to convert in."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.base import third_party_output
from bridge.config import Config
from bridge.core import libraries
from bridge.doors.lowerings import measured_configurations, measured_lowerings
from bridge.doors.lowerings.lowering_choice import Choice, choose
from bridge.doors.lowerings.measured_lowerings import Measurement
from bridge.generate.configurations import ALL, Selection
from bridge.generate.tracing.raw_launches import launches_in_graphs
from bridge.graph.dynamo import compile_lock
from bridge.graph.torch_patches.extents_in_pairs import extents_in_pairs
from bridge.graph.torch_patches.image_transforms import image_transforms_without_guards
from bridge.graph.torch_patches.linear_time import linear_time_export
from bridge.graph.torch_patches.pooled_extents import pooling_without_guards
from bridge.graph.torch_patches.recurrent import corrected_lstm_states
from bridge.graph.torch_patches.sampling import sampling_by_shapes
from bridge.graph.torch_patches.suggested_ranges import suggestions_cannot_fail
from bridge.graph.torch_patches.upsampling import upsampling_without_guards
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour, detect
from bridge.tensorrt.install.target import resolve_target
from bridge.tensorrt.network.op_converter import own_conversion
from bridge.tensorrt.plugins.fields import Call


@dataclass(frozen=True)
class Session:
    """Config, TensorRT and target of engines.

    measured: the lowerings that bridge.tune measured, by kind of call. selection: of configurations of
    autotuned kernels.
    """

    config: Config
    flavour: Flavour
    target: str
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    selection: Selection = ALL

    @classmethod
    def of(cls, config: Config) -> "Session":
        """The session of a config. FlavourError, TargetError, LibraryError: TensorRT, GPU or library is missing."""
        flavour = detect(config.flavour)
        target = resolve_target(flavour, config.target)
        libraries.load_installed()
        setup = (config, flavour, target, gpu.name_of(target))
        return cls(*setup[:3], measured_lowerings.FILE.load(*setup), measured_configurations.selection(*setup))

    def choose(self, calls: Sequence[Call]) -> list[Choice]:
        """The lowering of each call. UnsupportedOpError: the setting requests one that it cannot have."""
        return choose(calls, self.config, self.flavour, self.measured)

    @contextlib.contextmanager
    def converting(self) -> Iterator[None]:
        """The context in which graphs are captured and converted, by one thread at a time.

        torch.export and torch_tensorrt keep global state. The lock is torch.compile's own: it calls backends with that
        lock held, so a second one could deadlock.
        """
        with contextlib.ExitStack() as stack:
            silences = (third_party_output.silence_logs(), third_party_output.silence_copies())
            unguarded = (upsampling_without_guards(), pooling_without_guards(), image_transforms_without_guards())
            exporting = (linear_time_export(), sampling_by_shapes(), suggestions_cannot_fail(), extents_in_pairs())
            tracing = (*unguarded, corrected_lstm_states(), *exporting, launches_in_graphs())
            for context in (compile_lock, *silences, gpu.without_gpu(), *tracing):
                stack.enter_context(context)
            stack.enter_context(own_conversion(self.flavour))
            yield
