"""Mixtures of experts, as transformers loads them and by hand; products of matrices by groups."""

from importlib.util import find_spec

import oracle
import pytest
import torch
import torch.nn.functional as F

import bridge
from bridge.errors import ExportError
from bridge.tensorrt.decompositions import arithmetic, grouped_products

pytestmark = pytest.mark.skipif(
    find_spec("torch_tensorrt") is None or find_spec("transformers") is None,
    reason="needs torch_tensorrt and transformers",
)

LENGTH = torch.export.Dim("length", min=2, max=32)
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 30,
    "num_experts_per_tok": 2,
}
OF_FAMILY = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {"num_experts": 5, "moe_intermediate_size": 12, "head_dim": 8},
    "Olmoe": {"num_experts": 4},
    "GptOss": {"num_local_experts": 4, "head_dim": 8, "sliding_window": 4},
}


@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("ends", [[1, 1, 2, 3, 3], [0, 0, 0, 0, 1], [3, 3, 3, 3, 3]])
def test_products_by_groups(rows, ends):
    a, b = torch.randn(rows, 16).bfloat16(), torch.randn(5, 16, 8).bfloat16()
    offsets = torch.tensor([end * rows // 3 for end in ends], dtype=torch.int32)
    inside = int(offsets[-1])  # PyTorch leaves rows behind the last group as they are
    found, expected = grouped_products.grouped_mm(a, b, offsets), torch._grouped_mm(a, b, offs=offsets)
    torch.testing.assert_close(found[:inside], expected[:inside])
    assert not found[inside:].any()


def test_other_products_by_groups_are_batches_or_left():
    a, b = torch.randn(5, 3, 16), torch.randn(5, 16, 8)
    assert torch.equal(grouped_products.grouped_mm(a, b), torch.bmm(a, b))
    assert grouped_products.grouped_mm(a[0], b[0], torch.tensor([3])) is NotImplemented


def test_products_with_sums():
    x, a, b = torch.randn(4, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    for beta, alpha in ((1, 1), (2, 0.5), (0, 1)):
        expected = torch.addbmm(x, a, b, beta=beta, alpha=alpha)
        torch.testing.assert_close(arithmetic.addbmm(x, a, b, beta=beta, alpha=alpha), expected)


class Logits(torch.nn.Module):
    def __init__(self, family, implementation="grouped_mm"):
        super().__init__()
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**SIZES, **OF_FAMILY[family])
        self.model = getattr(transformers, f"{family}ForCausalLM")(config)
        assert self.model.config._experts_implementation == "grouped_mm"  # what transformers takes by itself
        self.model.set_experts_implementation(implementation)

    def forward(self, ids):
        return self.model(ids, use_cache=False).logits


@pytest.mark.parametrize(
    ("family", "dynamic_shapes"), [("Mixtral", ({1: LENGTH},)), ("Qwen3Moe", None), ("GptOss", None)]
)
def test_mixtures_of_transformers(family, dynamic_shapes):
    model = Logits(family).eval()
    with oracle.interpreted():
        compiled = oracle.ahead(model, (torch.randint(30, (1, 7)),), dynamic_shapes)
        for length in [7] if dynamic_shapes is None else [7, 2, 32]:
            ids = torch.randint(30, (1, length))
            oracle.assert_same(compiled(ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["Olmoe", "GptOss"])
def test_a_mixture_by_torch_compile(family):
    model, ids = Logits(family).eval(), torch.randint(30, (1, 7))
    torch._dynamo.reset()
    with oracle.interpreted():
        oracle.assert_same(oracle.just_in_time(model)(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_a_loop_over_experts_names_the_way_out():
    with pytest.raises(ExportError, match=r'set_experts_implementation\("grouped_mm"\)'):
        bridge.compile(Logits("Mixtral", "eager").eval(), (torch.randint(30, (1, 7)),), target="sm86")


class Mixture(torch.nn.Module):
    """By hand: x [tokens, 8], experts [4, 8, 8], each token's two best, weighted; and what stands beside."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(8, 4)

    def forward(self, x, experts):
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        share = torch.zeros(x.shape[0], 4).scatter_add(1, chosen, weights)
        product = torch.baddbmm(x.unsqueeze(0), x.expand(4, -1, -1), experts)
        mixed = (product * share.t().unsqueeze(-1)).sum(0)
        ids, order = chosen.flatten().sort()
        ends = torch.histc(ids.float(), 4, 0, 3).cumsum(0).int()
        rows = F.grouped_mm(x[order // 2].bfloat16(), experts.bfloat16(), offs=ends)  # torch exports no other dtype
        rows = rows.float() * weights.flatten()[order].unsqueeze(1)
        return mixed, F.glu(mixed, -1), torch.zeros_like(x).index_add_(0, order // 2, rows)


@pytest.mark.parametrize("dynamic_shapes", [None, ({0: LENGTH}, None)], ids=["fixed", "dynamic"])
def test_a_mixture_by_hand(dynamic_shapes):
    model, experts = Mixture().eval(), torch.randn(4, 8, 8)
    with oracle.interpreted():
        compiled = oracle.ahead(model, (torch.randn(5, 8), experts), dynamic_shapes)
        for tokens in [5] if dynamic_shapes is None else [5, 2, 32]:
            x = torch.randn(tokens, 8)
            oracle.assert_same(compiled(x, experts), model(x, experts), rtol=2e-2, atol=2e-2)  # of bfloat16


def test_an_engine_of_a_mixture():
    inputs, shapes = (torch.randn(5, 8), torch.randn(4, 8, 8)), ({0: LENGTH}, None)
    compiled = bridge.compile(Mixture().eval(), inputs, dynamic_shapes=shapes, target="sm86")
    assert [output.shape for output in compiled.outputs] == [(-1, 8), (-1, 4), (-1, 8)]


@pytest.mark.gpu(engines=True)
def test_a_mixture_on_a_gpu(device):
    model = Logits("Mixtral").eval().to(device)
    compiled = bridge.compile(model, (torch.randint(30, (1, 7), device=device),), dynamic_shapes=({1: LENGTH},))
    for length in (7, 2, 32):
        ids = torch.randint(30, (1, length), device=device)
        oracle.assert_same(compiled(ids), model(ids), rtol=1e-3, atol=1e-3)
