"""What tests/support/quick_torch.py takes from the decomposition before is what torch would register again."""

import pytest
import torch
from torch._C import DispatchKey
from torch._decomp.decompositions_for_rng import PhiloxState
from torch._export import utils
from torch._subclasses.fake_impls import op_implementations_dict
from torch.export import exported_program
from torch.fx.experimental.symbolic_shapes import ShapeEnv

COMPOSITE = DispatchKey.CompositeImplicitAutograd


@pytest.fixture
def op():
    """A composite operator that no decomposition has met."""
    with torch.library._scoped_library("quick_torch", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
        yield torch.ops.quick_torch.twice.default


def kernels_within(op, decomposition):
    with exported_program._override_composite_implicit_decomp({op: decomposition}):
        assert op.py_kernels[COMPOSITE] is decomposition and op in op_implementations_dict
        return dict(op.py_kernels)


def test_kernels_are_those_of_the_first_time_and_the_decomposition_is_the_last(op):
    before = dict(op.py_kernels)
    first = kernels_within(op, lambda x: 2 * x)
    assert op.py_kernels == before and op not in op_implementations_dict and first.keys() > before.keys()
    second = kernels_within(op, lambda x: 3 * x)
    assert op.py_kernels == before and op not in op_implementations_dict
    assert second.pop(COMPOSITE) is not first.pop(COMPOSITE) and second == first


def test_a_kernel_that_came_since_is_kept(op):
    kernels_within(op, lambda x: 2 * x)
    kernel = op.py_impl(DispatchKey.CPU)(lambda x: x)
    assert kernels_within(op, lambda x: 2 * x)[DispatchKey.CPU] is kernel and op.py_kernels[DispatchKey.CPU] is kernel


def test_decompositions_of_two_programs_differ(op):
    program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
    linear = torch.ops.aten.linear.default
    for own in ({}, {linear: lambda x, w, b: x @ w.T + b}, {linear: lambda x, w, b: x @ w.T - b}):
        found = program.run_decompositions(dict(own))
        targets = {node.target for node in found.graph.nodes}
        assert (linear in targets) == (not own)
        signs = {torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor} & targets
        assert len(signs) == bool(own)


def test_no_environment_of_shapes_records_its_events():
    """Its methods are called without what would record them."""
    environment = ShapeEnv()
    assert not environment.should_record_events and not hasattr(environment.create_symbol, "__wrapped__")


def test_torch_has_taken_out_what_it_is_not_asked_about():
    taken = utils._collect_all_valid_cia_ops()
    table = [op for op in torch.export.default_decompositions() if op.name().startswith("aten::") and op not in taken]
    assert len(table) > 100 and not [op for op in table if utils._is_preservable_cia_op(op)]


def test_a_state_of_random_numbers_that_is_reset_is_empty():
    state = PhiloxState()
    state.set_state(torch.ones(1), torch.ones(1), relative_offset=4)
    state.advance_offset(4)
    state.reset()
    assert (state.relative_offset, state.offset_advanced_alteast_once) == (0, False)
    with pytest.raises(AssertionError, match="must not be empty"):
        state.validate_state()
