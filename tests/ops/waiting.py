"""Calls whose kernels may begin before what comes before them in the stream has ended."""

from collections.abc import Callable

import torch
from torch import Tensor


def check_waits(call: Callable[[Tensor], Tensor], x: Tensor, captured: bool) -> None:
    """Asserts that a call sees what a copy, a kernel, a memset, another stream and itself have written before it.

    call: to a result of the same shape as x, which is overwritten. captured: in a CUDA graph.
    """
    source, other = torch.randn_like(x), torch.cuda.Stream()

    def steps(pause: Callable[[], None]) -> list[Tensor]:
        found = []

        def make(x: Tensor) -> None:
            pause()
            found.append(call(x))
            pause()

        make(x.copy_(source))
        make(x.mul_(-2))
        make(x.zero_())
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):
            x.copy_(source)
        torch.cuda.current_stream().wait_stream(other)
        make(x)
        for _ in range(3):
            make(found[-1])
        return found

    expected = steps(torch.cuda.synchronize)
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = steps(lambda: None)
    for _ in range(20):
        if captured:
            graph.replay()
        else:
            found = steps(lambda: None)
        torch.cuda.synchronize()
        assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * len(expected)
