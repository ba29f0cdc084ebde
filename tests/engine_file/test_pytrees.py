"""Pytrees in engine files: every container that a model may take or return comes back as it was."""

import dataclasses
import enum
from collections import OrderedDict, defaultdict, deque, namedtuple

import pytest
import torch
from fuzz_files import Boxes, Point, register

from bridge.engine import call_structure
from bridge.engine_file import pytrees
from bridge.errors import EngineError, EngineFileError, EngineInputError, ExportError

pytree = torch.utils._pytree
transformers = pytest.importorskip("transformers")
register()


class Size(str, enum.Enum):
    SMALL = "small"


class Pure(enum.Enum):
    ONE = 1


Unknown = namedtuple("Unknown", ["a"])


@dataclasses.dataclass
class Plain:
    x: torch.Tensor


class Own:
    """Registered with a reader of its context."""


pytree.register_pytree_node(
    Own,
    lambda own: ([], None),
    lambda leaves, context: Own(),
    serialized_type_name="tests.Own",
    to_dumpable_context=lambda context: "",
    from_dumpable_context=lambda text: None,
)


def output(**values):
    return transformers.modeling_outputs.BaseModelOutput(**values)


@pytest.mark.parametrize(
    "value",
    [
        0,
        (),
        (0, [0, []]),
        {"a": 0, 1: {True: 0, None: 0, 0.5: 0}},
        OrderedDict(z=0, a=(0,)),
        defaultdict(list, a=0),
        defaultdict(None, a=0),
        deque([0, 0]),
        deque([0], maxlen=4),
        Point(0, {"a": 0}),
        Boxes(0),
        Boxes(0, 0),
        output(last_hidden_state=0),
        output(last_hidden_state=0, hidden_states=(0, 0)),
        {Size.SMALL: 0},
        ((0, Point(Boxes(0), 0)), {"mask": None}),
    ],
)
def test_containers_come_back(value):
    spec = pytree.tree_structure(value)
    tree = pytrees.of_spec(spec)
    assert pytrees.of_json(tree.as_json(), "it") == tree and tree.leaves == spec.num_leaves
    found = pytrees.to_spec(tree)
    assert found == spec
    leaves = [index + 1 for index in range(spec.num_leaves)]
    again = pytree.tree_unflatten(leaves, found)
    assert type(again) is type(value) and pytree.tree_leaves(again) == leaves
    assert getattr(again, "maxlen", None) == getattr(value, "maxlen", None)
    assert getattr(again, "default_factory", None) is getattr(value, "default_factory", None)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Unknown(0), "Unknown has no registered name; register it with torch.export.register_dataclass"),
        (torch.ones(2).max(0), "torch.return_types.max has no registered name"),
        (Own(), "Own reads its context by code of its own, which no engine file may run"),
        ({Pure.ONE: 0}, "expected None, a bool, a number or a string; return tensors in tuples"),
        ({(1, 2): 0}, "return tensors in tuples, and in dicts whose keys are strings or numbers"),
        (defaultdict(lambda: 0, a=0), "the default factory of its context is '<function"),
    ],
)
def test_what_a_file_cannot_have_is_refused_when_the_model_is_compiled(value, words):
    with pytest.raises(ExportError) as caught:
        pytrees.of_spec(pytree.tree_structure(value))
    assert words in str(caught.value)


def test_values_nested_too_deep():
    value = 0
    for _ in range(64):
        value = [value]
    assert pytrees.of_json(pytrees.of_spec(pytree.tree_structure(value)).as_json(), "it").leaves == 1
    with pytest.raises(ExportError, match="nested more than 64 deep; flatten it"):
        pytrees.of_spec(pytree.tree_structure([value]))


@pytest.mark.parametrize(
    ("kind", "context", "children", "words"),
    [
        ("set", None, ["*"], "the kind of it is 'set'; expected one of tuple, list, dict"),
        (["tuple"], None, ["*"], "the kind of it is"),
        ("tuple", 5, ["*"], "the context of it is 5; expected null"),
        ("tuple", None, [None], "it must be dict, not NoneType"),
        ("tuple", None, {"a": "*"}, "the children of it must be list"),
        ("dict", ["a"], ["*", "*"], "expected 2 keys, one for each child"),
        ("dict", ["a", "a"], ["*", "*"], "expected 2 keys"),
        ("dict", [["a"]], ["*"], "expected None, a bool, a number or a string"),
        ("dict", None, [], "the context of it must be list"),
        ("defaultdict", ["eval", ["a"]], ["*"], "the default factory of the context of it is 'eval'"),
        ("defaultdict", ["list"], ["*"], "expected a factory and keys"),
        ("deque", 0, ["*"], "expected an integer from 1"),
        ("namedtuple", 5, ["*"], "must be str"),
        ("namedtuple", "a\x1b", ["*"], "printable characters"),
        ("registered", ["a"], ["*"], "expected a class's name and its context"),
        ("registered", ["a", [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]], ["*"], "nested more than 16 deep"),
        ("registered", ["a", 2**70], ["*"], "a number of at most 64 bits"),
    ],
)
def test_trees_of_files_are_checked(kind, context, children, words):
    with pytest.raises(EngineFileError) as caught:
        pytrees.of_json({"kind": kind, "context": context, "children": children}, "it")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (pytrees.Tree("registered", ("elsewhere.Output", ())), "elsewhere.Output; import the package that defines it"),
        (pytrees.Tree("namedtuple", "elsewhere.Pair"), "import the package that defines it, elsewhere,"),
        (pytrees.Tree("namedtuple", "fuzz.Boxes"), "fuzz.Boxes for a namedtuple, which it is not"),
        (pytrees.Tree("namedtuple", "fuzz.Point"), "fuzz.Point has 2 fields in this process, 0 in the engine file"),
        (pytrees.Tree("registered", ("fuzz.Point", ())), "fuzz.Point for a registered class, which it is not"),
        (pytrees.Tree("registered", ("tests.Own", ())), "tests.Own for a registered class, which it is not"),
        (pytrees.Tree("registered", ("builtins.dict", ())), "builtins.dict for a registered class, which it is not"),
        (pytrees.Tree("registered", ("NO_SERIALIZED_TYPE_NAME_FOUND", ())), "is not known in this process"),
    ],
)
def test_classes_are_those_of_this_process(tree, words):
    with pytest.raises(EngineError) as caught:
        pytrees.to_spec(tree)
    assert words in str(caught.value)


def test_a_class_that_has_changed_since_is_an_error_of_the_engine():
    arguments = pytrees.of_spec(pytree.tree_structure(((0,), {})))
    for context in ((("nothing",), ()), (("corners", "scores"), ()), 5, ("corners",)):
        tree = pytrees.Tree("registered", ("fuzz.Boxes", context), (pytrees.Tree(),))
        made = call_structure.CallStructure(arguments, tree, ["x"], [0], [0])
        with pytest.raises(EngineError, match=r"the result cannot be put together as .*; the class is not as it was"):
            made.unflatten((), [torch.zeros(1)])


def test_errors_show_no_control_characters_of_contexts():
    inner = pytrees.Tree("registered", ("fuzz.Boxes", "\x1b[2J"), (pytrees.Tree(),))
    arguments = pytrees.Tree("tuple", None, (pytrees.Tree("tuple", None, (inner,)), pytrees.Tree("dict", ())))
    tree = pytrees.Tree("registered", ("fuzz.Boxes", (("\x1b[2J",), ())), (pytrees.Tree(),))
    made = call_structure.CallStructure(arguments, tree, ["x"], [0], [0])
    with pytest.raises(EngineInputError, match=r"not in the example: 'a\\x1b'; it had x"):
        made.flatten((5,), {"a\x1b": 5})
    for refused in (lambda: made.flatten((5,), {}), lambda: made.unflatten((), [torch.zeros(1)])):
        with pytest.raises((EngineError, EngineInputError)) as caught:
            refused()
        assert "\\u001b[2J" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_literal_that_is_not_a_number_equals_itself():
    made = call_structure.CallStructure(
        pytrees.of_spec(pytree.tree_structure(((0, 0), {}))),
        pytrees.Tree(),
        ["x", "y"],
        [0, {"literal": float("nan")}],
        [0],
    )
    assert made.flatten((torch.zeros(1), float("nan")), {})
