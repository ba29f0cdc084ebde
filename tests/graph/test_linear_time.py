"""The time of a compile by a model's size: what torch.export looks up must not grow with the square of it."""

from importlib import import_module
from importlib.util import find_spec
from unittest import mock

import pytest
import torch
from torch import nn
from torch.export import ExportGraphSignature

from bridge.config import Config
from bridge.doors.lowered_graph import Session, lowered
from bridge.graph.shape_profile import input_specs
from bridge.graph.torch_patches.linear_time import linear_time_export

unflatten = import_module("torch.export.unflatten")
X = (torch.randn(2, 4),)


def layers(count):
    return nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(count)]).eval()


def tables(model):
    """How often the tables of signatures are made as a model is captured and lowered."""
    made = 0

    def counted(name):
        theirs = getattr(ExportGraphSignature, name).fget

        def table(self):
            nonlocal made
            made += 1
            return theirs(self)

        return mock.patch.object(ExportGraphSignature, name, property(table))

    with counted("inputs_to_parameters"), counted("inputs_to_buffers"), Session.of(Config(target="sm86")).converting():
        program = torch.export.export(model, X)
        lowered(program, input_specs(program))
    return made


@pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")
def test_tables_of_weights_are_not_made_for_each_weight():
    assert tables(layers(2)) == tables(layers(6))


def test_patterns_are_made_for_names_that_begin_alike():
    """Each of 20 modules is compared with itself and, as 1 is with 10, with those it begins."""
    program, tried = torch.export.export(layers(20), X), []
    theirs = unflatten._is_call_name
    counted = mock.patch.object(unflatten, "_is_call_name", lambda *names: tried.append(names) or theirs(*names))
    with counted, linear_time_export():
        program.module(check_guards=False)
    assert tried and all(name.startswith(base) for name, base in tried)


def test_results_are_torchs():
    def described(program):
        nodes = [(node.name, str(node.target), sorted(node.meta)) for node in program.graph.nodes]
        return nodes, str(program.graph_signature), list(dict(program.module().named_parameters()))

    model = layers(3)
    expected = described(torch.export.export(model, X).run_decompositions())
    with linear_time_export():
        assert described(torch.export.export(model, X).run_decompositions()) == expected
    names = ["a", "a@1", "a@12", "a@", "ab", "a1", "b", "b@1", "a@1b", "a.b"]
    expected = [unflatten._is_call_name(name, base) for name in names for base in names]
    with linear_time_export():
        assert [unflatten._is_call_name(name, base) for name in names for base in names] == expected


def test_everything_is_put_back():
    before = unflatten._is_call_name
    with linear_time_export():
        assert unflatten._is_call_name is not before
    assert unflatten._is_call_name is before
