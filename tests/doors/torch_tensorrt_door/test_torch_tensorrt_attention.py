"""How attention is traced, decomposed and summed where torch_tensorrt converts it."""

from collections import Counter

import pytest
import torch
from door_models import needs_torch_tensorrt
from torch import nn

import bridge
from bridge.doors import torch_tensorrt_door as door
from bridge.tensorrt.guest import cpu_attention


@needs_torch_tensorrt
@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what works without a GPU")
def test_attention_traced_on_a_cpu_is_treated_as_on_a_gpu(torch_tensorrt):
    class Plain(nn.Module):
        def forward(self, x):
            x = bridge.relu(x)
            return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = torch.randn(2, 4, 6, 8)
    found = []
    with door.cross_compile("sm86"):
        for decompose in (False, True):
            compiled = torch_tensorrt.compile(
                Plain().eval(), ir="dynamo", arg_inputs=[x], min_block_size=1, decompose_attention=decompose
            )
            found.append(Counter(layer["type"] for layer in door.layers_of(compiled)))
    assert found[0]["ATTENTION_INPUT"] == 1 and found[0]["MATRIX_MULTIPLY"] == 0
    assert found[1]["ATTENTION_INPUT"] == 0 and found[1]["MATRIX_MULTIPLY"] == 2


@needs_torch_tensorrt
def test_decompositions_take_what_those_of_every_version_take():
    def of_2_11(enable_experimental_decompositions=False, decompose_attention=False):
        return {"theirs": 0}

    def of_2_14(experimental=False, decompose_attention=False, use_distributed_mode_trace=False, use_fp32_acc=False):
        return {"theirs": 0}

    older, newer = map(cpu_attention._with_flash_on_cpu, (of_2_11, of_2_14))
    flash = cpu_attention.FLASH_ON_CPU
    assert older() == older(True) == newer(False, False, True) == newer(use_fp32_acc=True) == {"theirs": 0}
    assert older(False, True) == newer(decompose_attention=True) == {"theirs": 0, flash: cpu_attention._flash}
    assert newer(False, True, use_fp32_acc=True)[flash] is cpu_attention._flash_in_float32


def test_attention_that_sums_in_float32_is_for_float16_alone():
    torch.manual_seed(0)
    tensors = torch.randn(3, 2, 3, 64, 8, dtype=torch.float16)
    exact = torch.nn.functional.scaled_dot_product_attention(*tensors.double(), is_causal=True)
    errors = [
        (attend(*tensors, is_causal=True)[0].double() - exact).abs().mean().item()
        for attend in (cpu_attention._flash_in_float32, cpu_attention._flash)
    ]
    once = (exact.half().double() - exact).abs().mean().item()
    assert errors[0] < 1.1 * once < 1.5 * once < errors[1]  # rounded to float16 once, or several times
    others = tensors.bfloat16()
    results = [attend(*others)[0] for attend in (cpu_attention._flash_in_float32, cpu_attention._flash)]
    assert results[0].dtype == torch.bfloat16 and torch.equal(*results)
