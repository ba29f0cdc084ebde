"""The exceptions users meet. Each message says what was wrong, with the value, and what to do."""

from collections.abc import Sequence


class BridgeError(Exception):
    """Base of every error that bridge raises on purpose."""


class UnknownNameError(BridgeError, ValueError):
    """There is no op, model, file or other thing of that name; the message has the nearest one."""


class OpDefinitionError(BridgeError, TypeError):
    """An op is defined in a way that its layers cannot share: schema, reference or plugin disagree."""


class OpInputError(BridgeError, ValueError, RuntimeError):
    """An op was called with tensors or attributes that it does not take. A RuntimeError too, as CUDA kernels raise."""


class LibraryError(BridgeError, ImportError):
    """A native library is missing, damaged, or does not match the Python side."""


class FlavourError(BridgeError, ImportError):
    """No usable TensorRT flavour is installed, or the one installed cannot do what was asked."""


class UnsupportedOpError(BridgeError, NotImplementedError):
    """A model holds an operator that cannot be part of the engine."""


class ExportError(BridgeError, RuntimeError):
    """torch.export could not capture the model, or its dynamic shapes contradict it."""


class SpecializedError(ExportError):
    """Torch fixed dimensions that were to be dynamic. dimensions: (input, axis) of each."""

    def __init__(self, message: str, dimensions: Sequence[tuple[str, int]]) -> None:
        super().__init__(message)
        self.dimensions = tuple(dimensions)


class BuildError(BridgeError, RuntimeError):
    """TensorRT refused the network, or Triton a kernel."""


class TargetError(BridgeError, ValueError):
    """The target is no compute capability that this flavour builds for."""


class EngineFileError(BridgeError, ValueError):
    """A file is no bridge engine, or is truncated, damaged or newer than this version reads."""


class EngineError(BridgeError, RuntimeError):
    """An engine cannot be used here: other flavour, target, version, or no GPU."""


class EngineInputError(BridgeError, ValueError):
    """A compiled module was called with inputs that its engine does not take."""


class DecodeError(BridgeError, ValueError):
    """A file is no picture that can be decoded; the message names it."""


class GraphBreakError(ExportError):
    """torch.compile cut a function into several graphs, or traced it too often."""
