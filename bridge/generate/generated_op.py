"""A generated op: an operator as one model calls it, under a name of its own, with its library.

In PyTorch it calls the operator that it was made from; its plugin is in a library that holds nothing else.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.core.library import GENERATED, Library
from bridge.core.op import OPS, Op
from bridge.core.signature import Signature
from bridge.core.tensors import ANY
from bridge.generate import cache, folders
from bridge.generate.program import Instance


class GeneratedLibrary(Library):
    """The library of one generated op. folder: with its file for the target that was asked for last."""

    def __init__(self, qualified_name: str, operator: str, folder: Path) -> None:
        super().__init__(qualified_name.partition("::")[0], module=operator)
        self._key = qualified_name
        self.move(folder)

    @property
    def key(self) -> str:
        """The qualified name of its op."""
        return self._key

    def owns(self, plugin: str) -> bool:
        """Whether it is the plugin of its op."""
        return f"{self.namespace}::{plugin}" == self._key

    @property
    def named_by_content(self) -> bool:
        """Whether its file is as it was generated; one that was ejected is the user's to change."""
        return not folders.is_ejected(self.directories()[0])

    @property
    def origin(self) -> str:
        """What it was made from."""
        return f"generated from {self.module}"

    @property
    def remedy(self) -> str:
        """What to do where the file is missing."""
        return "Compile the model again, which generates it; or restore bridge's cache."

    def directories(self) -> list[Path]:
        """The folder."""
        assert self._folder is not None
        return [self._folder]

    def move(self, folder: Path) -> None:
        """Takes the file from a folder from now on, which has it for another target."""
        self._folder = folder
        cache.keep(folder)


class GeneratedOp(Op):
    """The op of an instance. It takes the tensors of a call alone: all else is part of it.

    original: computes the call, given its tensors; None where the op was read from an engine's library. instance: what
    its plugin was made from, None likewise.
    """

    instance: Instance | None = None

    def __init__(
        self,
        qualified_name: str,
        tensors: Sequence[str],
        num_outputs: int,
        library: GeneratedLibrary,
        original: Callable[..., Any] | None,
    ) -> None:
        Signature.__init__(self, qualified_name)
        self.reference = original or self._missing
        self.tensors = list(tensors)
        self.dtypes = [ANY for _ in tensors]
        self.num_outputs = num_outputs
        self._library = library

    @property
    def library(self) -> GeneratedLibrary:
        """Its own."""
        return self._library

    @property
    def operator(self) -> str:
        """The operator that it was made from, such as "acme::norm"."""
        return self._library.module

    @property
    def defined_in(self) -> str:
        """Where its sources lie."""
        return str(self._library.directories()[0])

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the operator."""
        return self.reference(*args, **kwargs)

    def fake(self, *args: Any, **kwargs: Any) -> Any:
        """The operator's own shapes, as contiguous tensors: a plugin's are."""
        results = self.reference(*args, **kwargs)
        if self.num_outputs == 1:
            return _contiguous(results)
        return tuple(map(_contiguous, results))

    def register(self) -> None:
        """Makes ``torch.ops.<namespace>.<name>``."""
        fragment = self._library.fragment
        fragment.define(self.schema_text(), tags=(torch.Tag.pt2_compliant_tag,))
        fragment.impl(self.local_name, self.run, "CompositeExplicitAutograd")
        torch.library.register_fake(self.qualified_name, self.fake, lib=fragment)

    def disable_kernel(self, problem: str) -> None:
        """No-op: the operator's kernels are its own."""

    def _missing(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"{self.qualified_name} was read from an engine's library; import what defines {self.operator}"
        )


def _contiguous(result: Any) -> Tensor:
    return torch.empty(result.shape, dtype=result.dtype, device=result.device)


def define(
    qualified_name: str,
    operator: str,
    tensors: Sequence[str],
    num_outputs: int,
    folder: Path,
    original: Callable[..., Any] | None,
    instance: Instance | None = None,
) -> GeneratedOp:
    """Makes a generated op known, once in a process. folder: with its library.

    LibraryError: the library does not load. BuildError: it is not that of the op.
    """
    known = OPS.get(qualified_name)
    if isinstance(known, GeneratedOp):
        known.library.move(folder)
        if original is not None:
            known.reference, known.instance = original, instance
        return known
    library = GeneratedLibrary(qualified_name, operator, folder)
    op = GeneratedOp(qualified_name, tensors, num_outputs, library, original)
    op.instance = instance
    op.register()
    GENERATED.add(qualified_name)
    OPS[op.name] = op
    library.add(op, loads_kernels=False)
    return op
