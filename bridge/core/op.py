"""@op: one plain-torch function defines an operator.

The function is the op's *reference*. Its signature gives the schema of ``torch.ops.<namespace>.<name>``; its body is
the CPU implementation, the fake (shape) implementation for tracing, the default gradient and the oracle of the tests.
The CUDA kernel and the TensorRT plugin come from the native libraries of the namespace, whose schemas are compared with
this one.
"""

import inspect
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor

from bridge.core import derivatives
from bridge.core.attributes import Pair as Pair
from bridge.core.library import GENERATED, LIBRARIES, Library
from bridge.core.signature import NAMESPACE, NAMESPACE_PATTERN, Signature
from bridge.core.signature import Counted as Counted
from bridge.core.signature import require as require
from bridge.core.tensors import REFUSED_KEYS
from bridge.errors import LibraryError, OpDefinitionError, OpInputError

_NAME = re.compile(rf"{NAMESPACE_PATTERN}::[A-Za-z_][A-Za-z0-9_]*")


class Ops(dict[str, "Op"]):
    """Every op defined so far: bridge's own by name, others by their qualified name, such as "acme::corr"."""

    def __missing__(self, name: str) -> "Op":
        namespace, _, local_name = name.rpartition("::")
        if namespace == NAMESPACE and local_name in self:
            return self[local_name]
        raise KeyError(name)


OPS = Ops()


_tracing = threading.local()


def only_shapes() -> bool:
    """Whether a reference is run for the shapes and dtypes of its results alone.

    After its checks a long reference may then return empty tensors: torch traces its every line slowly, where extents
    are symbolic.
    """
    return getattr(_tracing, "only_shapes", False)


def readable(tensor: Tensor) -> bool:
    """Whether a reference may look at a tensor's values: it is in CPU memory, and nothing traces the code.

    A reference with a check of values leaves it out elsewhere, where reading would wait for a GPU or break a trace.
    """
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and not torch._is_functional_tensor(tensor)
    return plain and tensor.device.type == "cpu" and torch._C._len_torch_dispatch_stack() == 0


def unknown_extent() -> Any:
    """The first extent of a `Counted` result, for a reference that is run for shapes alone."""
    return torch.library.get_ctx().new_dynamic_size()


class Op(Signature):
    """An operator as its reference defines it. Made by :func:`op`; found in :data:`OPS`.

    name: the key in OPS. qualified_name: with its namespace, as torch.library takes it. local_name: without.
    """

    def __init__(self, reference: Callable[..., Any], qualified_name: str) -> None:
        super().__init__(qualified_name)
        self.reference = reference
        self._read(reference)

    @property
    def library(self) -> Library:
        """The library that the op belongs to."""
        return LIBRARIES[self.namespace]

    @property
    def defined_in(self) -> str:
        """The file of the reference, or its module."""
        source = inspect.getsourcefile(self.reference) if inspect.isfunction(self.reference) else None
        return source or self.reference.__module__

    @property
    def has_cuda_kernel(self) -> bool:
        """Whether the native library's implementation is registered with torch."""
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(self.qualified_name, "CUDA"))

    def matches(self, native: str) -> bool:
        """Whether the schema of an op struct is the op's."""
        return str(torch._C.parse_schema(self.schema_text())) == str(torch._C.parse_schema(native))

    @cached_property
    def overload(self) -> torch._ops.OpOverload:
        """What to call, and what the nodes of a graph have for target."""
        return getattr(getattr(torch.ops, self.namespace), self.local_name).default

    @property
    def schema(self) -> torch.FunctionSchema:
        """The schema as torch holds it."""
        return self.overload._schema

    def call_reference(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the reference on the arguments of a call; returns its outputs as they come, possibly views."""
        tensors, attributes = self.bind(args, kwargs)
        return self.reference(*tensors, **attributes)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The CPU implementation: the reference, its outputs dense and in memory of their own."""
        tensors, attributes = self.check(args, kwargs)
        given = [tensor for tensor in tensors if tensor is not None]
        outputs = self.reference(*tensors, **attributes)
        if self.num_outputs == 1:
            return _fresh(outputs, given)
        return tuple(_fresh(output, given) for output in outputs)

    def fake(self, *args: Any, **kwargs: Any) -> Any:
        """The fake implementation: the same, for shapes and dtypes."""
        before = only_shapes()
        _tracing.only_shapes = True
        try:
            return self.run(*args, **kwargs)
        finally:
            _tracing.only_shapes = before

    def register(self) -> None:
        """Makes ``torch.ops.<namespace>.<name>``: schema, CPU and fake implementation, derivatives."""
        fragment = self.library.fragment
        tags = (torch.Tag.pt2_compliant_tag, *((torch.Tag.dynamic_output_shape,) if self.counted else ()))
        try:
            fragment.define(self.schema_text(), tags=tags)
        except RuntimeError as error:  # such as a name that another library of these ops has
            raise OpDefinitionError(f"op {self.name}: torch does not take {self.schema_text()}: {error}") from error
        fragment.impl(self.local_name, self.run, "CPU")
        fragment.impl(self.local_name, self._run_without_kernel, "CompositeExplicitAutograd")
        torch.library.register_fake(self.qualified_name, self.fake, lib=fragment)
        for key in REFUSED_KEYS:
            fragment.impl(self.local_name, self._refuse, key)
        derivatives.register(fragment, self.overload, self.run, self._backward, self._save_for_backward)

    def _run_without_kernel(self, *args: Any, **kwargs: Any) -> Any:
        """The implementation for devices without a kernel: the reference, which is slow there."""
        warnings.warn(f"{self.qualified_name} has no kernel here, its reference runs: {self._absence()}", stacklevel=2)
        return self.run(*args, **kwargs)

    def _absence(self) -> str:
        path = self.library.find("torch")
        absence = self.library.missing_text("torch") if path is None else f"{path} has none"
        return self.library.problem_of(self.local_name) or absence

    def disable_kernel(self, problem: str) -> None:
        """Has calls on a GPU raise: the kernel that is loaded has another schema, and would misread its arguments."""

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise LibraryError(problem)

        self.library.fragment.impl(self.local_name, refuse, "CUDA", allow_override=True)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        self.check(args, kwargs)
        raise OpInputError(f"{self.name}: a tensor has no strides, expected dense tensors")

    def _save_for_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        count = len(self.tensors)
        ctx.save_for_backward(*inputs[:count])
        ctx.attributes = inputs[count:]

    def _backward(self, ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The vector-Jacobian product of the reference, itself differentiable."""
        # As many entries as arguments were given: the dispatcher leaves out those equal to their defaults.
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
        with torch.enable_grad():
            # Views, so that a tensor given twice gets each of its gradients once.
            inputs: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            outputs = self.call_reference(*inputs, *ctx.attributes)
        outputs = (outputs,) if self.num_outputs == 1 else outputs
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            [inputs[i] for i in wanted],
            [gradient for _, gradient in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        by_index = dict(zip(wanted, found, strict=True))
        return tuple(by_index.get(i) for i in range(len(ctx.needs_input_grad)))


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, fake ones too, lie in one storage."""
    return bool(torch._C._is_alias_of(a, b))  # type: ignore[attr-defined]


def _fresh(output: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    output = output.contiguous()
    shared = any(shares_memory(output, tensor) for tensor in inputs)
    return output.clone(memory_format=torch.contiguous_format) if shared else output


def written() -> dict[str, Op]:
    """The ops that somebody wrote: all but generated ones, which stay known after a model was compiled."""
    return {name: op for name, op in OPS.items() if op.qualified_name not in GENERATED}


def op(reference: Callable[..., Any] | str) -> Callable[..., Any]:
    """Defines an operator by its reference and returns the function to call.

    Use it as ``@bridge.op("acme::corr")``; without a name it is for bridge's own ops, called as their functions.

    The reference's parameters are tensors (``Tensor`` or ``Tensor | None``) followed by attributes (``int``, ``float``,
    ``bool``, ``str``, :data:`Pair`, ``Sequence[int]``, ``Sequence[float]``); it returns a tensor or a fixed-length
    tuple of tensors, uses plain torch only and works on any device.

    Args:
        reference: the op's name with its namespace; or the reference itself.
    Raises:
        OpDefinitionError: the signature cannot be an operator's, or the name is no name, or taken.
    """
    if isinstance(reference, str):
        name = reference
        return lambda function: _define(function, name)
    if reference.__module__.partition(".")[0] != NAMESPACE:
        raise OpDefinitionError(
            f"op {reference.__name__}: it needs a namespace of yours, for {NAMESPACE} is bridge's: write "
            f'@bridge.op("<namespace>::{reference.__name__}")'
        )
    return _define(reference, f"{NAMESPACE}::{reference.__name__}")


def _define(reference: Callable[..., Any], name: str) -> Callable[..., Any]:
    if not _NAME.fullmatch(name):
        raise OpDefinitionError(f'op {name!r}: expected a name with a namespace, such as "acme::corr"')
    definition = Op(reference, name)
    if definition.name in OPS:
        raise OpDefinitionError(f"op {definition.name} is defined already, in {OPS[definition.name].defined_in}")
    library = LIBRARIES.of(definition.namespace, reference.__module__)
    definition.register()
    OPS[definition.name] = definition
    library.add(definition)
    overload = definition.overload

    @wraps(reference)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            definition.check(args, kwargs)
        return overload(*args, **kwargs)

    return call
