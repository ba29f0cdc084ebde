"""Ops with arguments drawn at random; see fuzz_ops.py."""

import fuzz_children
import fuzz_ops

from bridge.core.op import written


def test_any_call_gives_results_or_an_error_of_bridges():
    result = fuzz_children.run(fuzz_ops.run_case, seed=16, count=1800)
    assert not result.findings, "\n".join(result.findings)
    for name in written():  # neither is out of reach
        assert result.outcomes[f"{name} computed"] > 15 and result.outcomes[f"{name} refused"] > 0
