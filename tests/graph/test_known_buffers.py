"""Numbers in buffers that a model's code reads, as codecs read their paddings and strides."""

import pytest
import torch
import torch.nn.functional as F
from oracle import ahead, assert_same, interpreted
from torch import nn

from bridge.errors import ExportError


class Padded(nn.Module):
    """A convolution behind as many zeros as make its windows whole, which it computes with tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 4, 3)
        self.stride, self.width = (nn.Buffer(torch.tensor(number), persistent=False) for number in (3, 4))
        self.whole = nn.Buffer(torch.tensor(True))

    def forward(self, x):
        windows = torch.ceil((x.shape[-1] - self.width) / self.stride).to(torch.int64) + 1
        missing = (windows - 1) * self.stride + self.width - x.shape[-1]
        if self.whole and missing > 0:
            x = F.pad(x, (0, missing))
        return self.conv(x)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("length", [13, 14])
def test_padding_by_numbers_of_buffers(length, whole):
    model, x = Padded().eval(), torch.randn(2, 2, length)
    model.whole.fill_(whole)
    with interpreted():
        compiled = ahead(model, (x,))
        assert_same(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert compiled(x).shape[-1] == (5 if length == 14 and whole else 4)


class Counting(nn.Module):
    """Writes to a copy of its number, or adds an input to it, before it branches on it."""

    def __init__(self, adds):
        super().__init__()
        self.adds = adds
        self.number = nn.Buffer(torch.tensor(2))

    def forward(self, x):
        number = self.number + x.long().sum() if self.adds else self.number.clone().add_(1)
        return x * 2 if number == 3 else x * 5


def test_a_write_counts_and_leaves_the_model_as_it_is():
    model, x = Counting(adds=False).eval(), torch.randn(3)
    with interpreted():
        assert_same(ahead(model, (x,))(x), x * 2)
    assert model.number == 2 and type(model.number) is torch.Tensor


def test_what_depends_on_inputs_stays_unknown():
    with interpreted(), pytest.raises(ExportError, match="branches on values of tensors"):
        ahead(Counting(adds=True).eval(), (torch.ones(1),))


SMALL = {
    **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
    **{"intermediate_size": 32, "sliding_window": 5, "num_filters": 4, "upsampling_ratios": [4, 2]},
    **{"codebook_dim": 16, "codebook_size": 32, "max_position_embeddings": 128},
    **{"vector_quantization_hidden_dimension": 16, "num_quantizers": 3, "num_semantic_quantizers": 1},
    **{"upsample_groups": 32, "layer_scale_initial_scale": 1.0},
}


class Reconstructed(nn.Module):
    """A sound from the codes that a codec has for it."""

    def __init__(self, codec):
        super().__init__()
        self.codec = codec

    def forward(self, sound):
        return self.codec.decode(self.codec.encode(sound, num_quantizers=3).audio_codes).audio_values


def test_mimi_is_one_engine_with_windows():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    codec = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("mimi", **SMALL)).eval()
    for name, buffer in codec.named_buffers():
        if name.endswith("embed_sum"):  # codes whose vectors are all 0 otherwise
            buffer.normal_()
    model, sound = Reconstructed(codec).eval(), torch.randn(1, 1, 331)
    with interpreted(engines=True):
        compiled = ahead(model, (sound,))
        assert compiled.plugin_counts() == {"rope": 2, "window_attention": 2}
        assert_same(compiled(sound), model(sound), rtol=1e-3, atol=1e-4)
