"""Regions of traced bodies compute what the bodies say: in-place updates between kernels, views, results' order."""

import fresh_process

_CODE = """
import torch, triton, triton.language as tl
import interpreted_kernels, region_interpreter
from traced import instance_of

F32, ROWS = torch.float32, (1, 9, 5)

@triton.jit
def _add(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)

def add_to(y, x):
    \"\"\"y += x, by a kernel.\"\"\"
    _add[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), BLOCK=64)

def updates(x):
    y = x.clone()
    add_to(y, x)
    y.mul_(3)
    y[:, 2:4] = 7
    add_to(y, x)
    return y

def updates_through_a_view(x):
    y = torch.zeros(2, *x.shape, device=x.device)
    add_to(y[1], x)
    y[0].add_(y[1])
    y.transpose(0, 1)[0] += 5
    add_to(y[0], x)
    return y

def reads_before_and_after(x):
    y = x.clone()
    before = y * 2
    add_to(y, x)
    return before, y, before + y

def operators_around(x):
    y = (x.sin() + 1).t().contiguous()
    z = torch.ones_like(y)
    add_to(z, y)
    return z.t() * 2

def an_input_that_is_returned(x):
    y = torch.zeros_like(x)
    add_to(y, x)
    return y, x

def a_body_with_a_branch(x):
    y = x.clone()
    if x.shape[0] > 3:
        add_to(y, x)
    add_to(y, x)
    return y

def eagerly(body, x):
    global add_to
    kernels, add_to = add_to, lambda y, x: y.add_(x)
    try:
        results = body(x)
    finally:
        add_to = kernels
    return results if isinstance(results, tuple) else (results,)

for body in (updates, updates_through_a_view, reads_before_and_after, operators_around, an_input_that_is_returned,
             a_body_with_a_branch):
    with interpreted_kernels.traceable():
        instance = instance_of(body, (F32, (ROWS, 6)))
    for rows in (1, 3, 4, 9):
        x = torch.randn(rows, 6)
        for mine, wanted in zip(region_interpreter.run_instance(instance, [x]), eagerly(body, x), strict=True):
            torch.testing.assert_close(mine, wanted, msg=lambda text: f"{body.__name__}, {rows} rows: {text}")
    print(body.__name__)
"""


def test_updates_between_kernels_are_in_order(tmp_path):
    code = tmp_path / "bodies.py"  # Triton reads the source of kernels
    code.write_text(_CODE)
    run = f"import runpy; runpy.run_path({str(code)!r}, run_name='bodies')"
    done = fresh_process.run(run, TRITON_INTERPRET="1", PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 6
