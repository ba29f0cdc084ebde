"""Names of outputs: the model's own where it has some, and such that tools take them."""

import re
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch.utils import _pytree as pytree

from bridge.engine_file.output_names import output_names


def names(result, taken=()):
    return output_names(pytree.tree_structure(result), taken)


Boxes = namedtuple("Boxes", ["corners", "scores"])


class Keyed(OrderedDict):
    """As transformers' outputs of older versions: registered without keys, which are the context."""


class Checked:
    """Its constructor refuses what is no tensor."""

    def __init__(self, values):
        self.values = [value.float() for value in values]


@dataclass
class Found:
    pred_boxes: object
    logits: object


pytree.register_pytree_node(
    Keyed,
    lambda x: (list(x.values()), list(x)),
    lambda values, keys: Keyed(zip(keys, values, strict=True)),
    serialized_type_name="test_output_names.Keyed",
)
pytree.register_pytree_node(
    Checked,
    lambda x: (x.values, None),
    lambda values, _: Checked(values),
    serialized_type_name="test_output_names.Checked",
    flatten_with_keys_fn=lambda x: ([(pytree.SequenceKey(i), value) for i, value in enumerate(x.values)], None),
)
pytree.register_dataclass(Found, serialized_type_name="test_output_names.Found")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (0, ["output0"]),
        ((0, [1]), ["output0", "output1"]),
        ({"logits": 0, "hidden_states": (0, 0, 0, 0)}, ["logits", *(f"hidden_states_{place}" for place in range(4))]),
        (Boxes(0, {"best": 0}), ["corners", "scores_best"]),
        ([{"boxes": 0}, {"boxes": 0}], ["output0_boxes", "output1_boxes"]),
        (defaultdict(list, a=0, b=(0, 0)), ["a", "b_0", "b_1"]),
        ((Found(0, (0, 0)), 0), ["output0_pred_boxes", "output0_logits_0", "output0_logits_1", "output3"]),
        (Keyed(logits=0, states=(0, Keyed(last=0))), ["logits", "states_0", "states_1_last"]),
    ],
)
def test_keys_and_fields_are_names(result, expected):
    assert names(result) == expected


def test_a_class_that_builds_from_tensors_alone_has_places():
    spec = pytree.tree_structure({"boxes": Checked([torch.ones(1), torch.ones(1)]), "last": 0})
    assert output_names(spec, []) == ["boxes_0", "boxes_1", "last"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"": 0}, ["output0"]),
        ({"\n": 0, "__": 0}, ["output0", "output1"]),
        ({"a\x1b[2J": 0, "b": 0}, ["a_2J", "b"]),
        ({"1": 0, "x": {"2": 0}}, ["output0", "x_2"]),
        (
            {"a b": 0, "a:b": 0, "a,b": 0, "a=b": 0},
            ["a_b", "a_b_output", "a_b_output_output", "a_b_output_output_output"],
        ),
        ({"layer.0-out": 0, ".hidden": 0, "../up": 0}, ["layer.0-out", "hidden", "_up"]),
        ({"größe 1": 0, 7: 0, "7up": 0}, ["größe_1", "output1", "output7up"]),
        ({"x" * 300: 0}, ["output0"]),
    ],
)
def test_names_are_such_that_tools_take_them(result, expected):
    found = names(result)
    assert found == expected and len(set(found)) == len(found)
    assert all(re.fullmatch(r"[^\W\d][\w.-]*", name) for name in found)


def test_no_name_is_an_inputs():
    assert names({"x": 0, "x_output": 0}, ["x"]) == ["x_output", "x_output_output"]
    assert names((0, {"output0": 0})) == ["output0", "output1_output0"]
