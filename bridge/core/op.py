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
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from bridge.core import derivatives
from bridge.core.attributes import ATTRIBUTE_TYPES, Attribute
from bridge.core.attributes import Pair as Pair
from bridge.core.library import LIBRARIES, Library
from bridge.core.tensors import REFUSED_KEYS, DTypes, check_tensors, dtypes_of
from bridge.errors import LibraryError, OpDefinitionError, OpInputError

NAMESPACE = "bridge"
_COUNTED = "counted"
Counted: TypeAlias = Annotated[Tensor, _COUNTED]
"""A result whose first extent depends on values, see `unknown_extent`; csrc/core/op.h says `counted`."""

_NAME = re.compile(r"[a-z_][a-z0-9_]*::[A-Za-z_][A-Za-z0-9_]*")


class Ops(dict[str, "Op"]):
    """Every op defined so far: bridge's own by name, others by their qualified name, such as "acme::corr"."""

    def __missing__(self, name: str) -> "Op":
        namespace, _, local_name = name.rpartition("::")
        if namespace == NAMESPACE and local_name in self:
            return self[local_name]
        raise KeyError(name)


OPS = Ops()


def require(condition: bool, message: str) -> None:
    """Raises OpInputError with ``message`` unless ``condition`` holds; for checks in references."""
    if not condition:
        raise OpInputError(message)


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


class Op:
    """An operator as its reference defines it. Made by :func:`op`; found in :data:`OPS`.

    name: the key in OPS. qualified_name: with its namespace, as torch.library takes it. local_name: without.
    """

    def __init__(self, reference: Callable[..., Any], qualified_name: str) -> None:
        self.reference = reference
        self.qualified_name = qualified_name
        self.namespace, _, self.local_name = qualified_name.partition("::")
        self.name = self.local_name if self.namespace == NAMESPACE else qualified_name
        hints = get_type_hints(reference)
        marked = get_type_hints(reference, include_extras=True)
        parameters = inspect.signature(reference).parameters.values()
        self.tensors: list[str] = []
        self.optional: set[str] = set()
        self.attributes: list[Attribute] = []
        for parameter in parameters:
            self._add(parameter, hints.get(parameter.name))
        self.dtypes: list[DTypes] = [dtypes_of(marked[name]) for name in self.tensors]
        self.num_outputs = self._count_outputs(hints.get("return"))
        self.counted = self._counted_outputs(marked.get("return"))

    def _add(self, parameter: inspect.Parameter, hint: Any) -> None:
        where = f"op {self.name}, parameter {parameter.name}"
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise OpDefinitionError(f"{where}: must be an ordinary parameter, not {parameter.kind.description}")
        optional = get_origin(hint) in (Union, UnionType) and set(get_args(hint)) == {Tensor, NoneType}
        if hint is Tensor or optional:
            if self.attributes:
                raise OpDefinitionError(f"{where}: tensors come before attributes")
            self.tensors.append(parameter.name)
            self.optional |= {parameter.name} if optional else set()
        elif hint in ATTRIBUTE_TYPES:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            attribute = Attribute(parameter.name, ATTRIBUTE_TYPES[hint], default)
            if not attribute.fits_default():
                raise OpDefinitionError(f"{where}: its default is {default!r}, expected {attribute.type}")
            self.attributes.append(attribute)
        else:
            known = "Tensor, Tensor | None, int, float, bool, str, Pair, Sequence[int] or Sequence[float]"
            raise OpDefinitionError(f"{where}: annotated {hint!r}, expected {known}")

    def _count_outputs(self, hint: Any) -> int:
        if hint is Tensor:
            return 1
        if get_origin(hint) is tuple and all(item is Tensor for item in get_args(hint)):
            return len(get_args(hint))
        raise OpDefinitionError(
            f"op {self.name} returns {hint!r}, expected Tensor or tuple[Tensor, ...] of fixed length"
        )

    def _counted_outputs(self, hint: Any) -> tuple[int, ...]:
        """The places of the outputs that are `Counted`."""
        results = get_args(hint) if get_origin(hint) is tuple else [hint]
        return tuple(i for i, result in enumerate(results) if _COUNTED in getattr(result, "__metadata__", ()))

    @property
    def library(self) -> Library:
        """The library that the op belongs to."""
        return LIBRARIES[self.namespace]

    @property
    def has_cuda_kernel(self) -> bool:
        """Whether the native library's implementation is registered with torch."""
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(self.qualified_name, "CUDA"))

    def schema_text(self) -> str:
        """The schema as text, without the namespace; csrc/core/schema.cpp spells the plugin's in the same way."""
        tensors = [f"Tensor? {name}=None" if name in self.optional else f"Tensor {name}" for name in self.tensors]
        arguments = ", ".join(tensors + [attribute.signature_text() for attribute in self.attributes])
        results = ", ".join(["Tensor"] * self.num_outputs)
        return f"{self.local_name}({arguments}) -> {results if self.num_outputs == 1 else f'({results})'}"

    @cached_property
    def overload(self) -> torch._ops.OpOverload:
        """What to call, and what the nodes of a graph have for target."""
        return getattr(getattr(torch.ops, self.namespace), self.local_name).default

    @property
    def schema(self) -> torch.FunctionSchema:
        """The schema as torch holds it."""
        return self.overload._schema

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Sorts the arguments of a call, or of a graph node.

        Returns:
            One entry for each tensor parameter in order (None where an optional one is absent), and the value of every
            attribute by name, defaults filled in.
        Raises:
            OpInputError: an argument is missing, unknown or given twice.
        """
        names = [*self.tensors, *(attribute.name for attribute in self.attributes)]
        given = dict(zip(names, args, strict=False))
        unknown = [name for name in kwargs if name not in names or name in given]
        require(
            len(args) <= len(names) and not unknown,
            f"{self.name}: arguments unknown or given twice: {unknown or args[len(names) :]}",
        )
        given.update(kwargs)
        missing = [name for name in self.tensors if given.get(name) is None and name not in self.optional]
        missing += [a.name for a in self.attributes if a.name not in given and a.default is None]
        require(not missing, f"{self.name}: missing arguments: {', '.join(missing)}")
        attributes = {a.name: a.value(given.get(a.name, a.default)) for a in self.attributes}
        return [given.get(name) for name in self.tensors], attributes

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, sorted as `bind` does, once they are of kinds that the op takes.

        Raises:
            OpInputError: as `bind` does; or a tensor, see `check_tensors`, or an attribute is of another kind.
        """
        tensors, attributes = self.bind(args, kwargs)
        check_tensors(self.name, self.tensors, self.dtypes, tensors)
        for attribute in self.attributes:
            value = attributes[attribute.name]
            require(attribute.fits(value), f"{self.name}: {attribute.name} is {value!r}, expected {attribute.type}")
        return tensors, attributes

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
        problem = self.library.problem_of(self.local_name)
        missing = self.library.find("torch") is None
        none = f"{self.library.find('torch')} has none"
        return problem or (self.library.missing_text("torch") if missing else none)

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
        raise OpDefinitionError(
            f"op {definition.name} is defined already, in {OPS[definition.name].reference.__module__}"
        )
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
