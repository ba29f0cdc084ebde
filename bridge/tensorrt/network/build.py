"""Builds the engine of a network, with or without a GPU."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bridge.config import Config
from bridge.errors import BuildError
from bridge.tensorrt.install import gpu
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import errors_text, logger
from bridge.tensorrt.network import progress


def create_network(flavour: Flavour) -> tuple[Any, Any]:
    """A builder and an empty, strongly typed network: every layer computes in the model's dtype."""
    trt = flavour.trt()
    builder = trt.Builder(logger(flavour))
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # later versions have no other networks
    return builder, builder.create_network(0 if typed is None else 1 << int(typed))


def build_engine(
    flavour: Flavour,
    builder: Any,
    network: Any,
    profiles: Sequence[Any],
    target: str,
    config: Config,
    embedded: Sequence[Path] = (),
) -> bytes:
    """Serialised engine of a network. Ctrl-C cancels the build.

    profiles: none where no shape is dynamic; the second one is left out where the flavour or the settings want none.
    embedded: the plugin libraries that it is to hold.
    Raises:
        BuildError: TensorRT refused the network; the message has its errors.
    """
    settings = _builder_config(flavour, builder, target, config)
    if embedded:
        _embed(flavour, settings, embedded)
    for profile in profiles if _wants_tuned_profile(flavour, config) else profiles[:1]:
        settings.add_optimization_profile(profile)
    monitor, report = progress.monitor(flavour.trt(), config.reports_progress)
    settings.progress_monitor = monitor
    try:
        engine = _interruptible(
            lambda: builder.build_serialized_network(network, settings), report.cancelled.set, report.tick
        )
    finally:
        report.close()
    if engine is None:
        raise BuildError(f"{flavour.name} {flavour.version} could not build the engine{errors_text(flavour)}")
    return bytes(engine)


def _wants_tuned_profile(flavour: Flavour, config: Config) -> bool:
    """Where kernels are compiled for shapes, and not measured for the tuned ones of a range."""
    return config.tuned_profile and flavour.traits.compiles_kernels


def _builder_config(flavour: Flavour, builder: Any, target: str, config: Config) -> Any:
    trt = flavour.trt()
    settings = builder.create_builder_config()
    if flavour.traits.builds_without_gpu:
        member = "CURRENT" if target == gpu.current_target() else target.upper()
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(trt.ComputeCapability.__members__[member], 0)
    if config.optimization_level is not None:
        settings.builder_optimization_level = config.optimization_level
    if config.workspace_size is not None:
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_size)
    if not config.tf32:
        settings.clear_flag(trt.BuilderFlag.TF32)
    return settings


def _embed(flavour: Flavour, settings: Any, libraries: Sequence[Path]) -> None:
    settings.plugins_to_serialize = [str(path) for path in libraries]
    if flavour.traits.embeds_in_compatible_engines:
        settings.set_flag(flavour.trt().BuilderFlag.VERSION_COMPATIBLE)


def _interruptible(work: Callable[[], Any], cancel: Callable[[], None], tick: Callable[[], None] = lambda: None) -> Any:
    """Runs `work` in another thread, so that Ctrl-C reaches this one; then calls `cancel` and waits for `work`.

    tick: called every tenth of a second meanwhile.

    KeyboardInterrupt must not be raised in a build's callbacks: no exception may cross TensorRT's frames.
    """
    results: list[Any] = []
    errors: list[BaseException] = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def body() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="bridge-build")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            tick()
    except KeyboardInterrupt:
        cancel()
        thread.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
