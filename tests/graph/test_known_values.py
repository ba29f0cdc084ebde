"""Values that a model computes from what it holds: loops, splits, branches and shapes of them are captured."""

import pytest
import torch
from oracle import ahead, assert_same, interpreted
from torch import nn
from torch.export import Dim

import bridge
from bridge.errors import ExportError
from bridge.graph.capture import export


class Model(nn.Module):
    """A model of a function of its input, and perhaps of integers that it holds."""

    def __init__(self, function, held=None):
        super().__init__()
        self.function = function
        self.held = held

    def forward(self, *inputs):
        return self.function(*inputs, *([] if self.held is None else [self.held]))


def windows(x):
    """As Qwen2.5-VL cuts an image: the last windows of a row are narrower."""
    index = torch.arange(12).reshape(3, 4)
    padded = torch.nn.functional.pad(index, (0, 2, 0, 3), value=-100).reshape(2, 3, 2, 3).permute(0, 2, 1, 3)
    lengths = (padded != -100).sum([1, 3]).reshape(-1)
    padded = padded.reshape(-1)
    order = padded[padded != -100]
    bounds = torch.unique_consecutive(torch.tensor([0, *lengths.cumsum(0).tolist()]))
    pieces = torch.split(x[order], (bounds[1:] - bounds[:-1]).tolist())
    return torch.cat([piece.softmax(0) for piece in pieces])[torch.argsort(order)]


def positions(x):
    """Of two images in a row."""
    sizes = torch.tensor([[2, 3], [3, 2]])
    areas = sizes[:, 0] * sizes[:, 1]
    widths = torch.repeat_interleave(sizes[:, 1], areas)
    starts = torch.repeat_interleave(areas.cumsum(0) - areas, areas)
    place = torch.arange(areas.sum()) - starts
    return x + place // widths - 2 * (place % widths)


def branches(x):
    x = x + 1 if torch.tensor([2, 3]).max() > 2 else x - 1
    for row in torch.tensor([[1, 2], [3, 4]]):
        x = x * int(row[0]) + float(row[1].item())
    return x[torch.nonzero(torch.tensor([1, 0] * 6)).squeeze(1)]


def chunks(x):
    """As Qwen2.5-Omni cuts sound: the last chunk of each is shorter."""
    lengths = torch.tensor([7, 5])
    counts = torch.ceil(lengths / 3).long()
    chunks = torch.tensor([3] * counts.sum(), dtype=torch.long)
    chunks[torch.nn.functional.pad(counts, (1, 0), value=-1).cumsum(0)[1:]] = lengths % 3
    chunks = torch.where(chunks == 0, 3, chunks)
    chunks.view(-1)[0].mul_(1)
    return torch.cat([piece.softmax(0) for piece in x.split(chunks.tolist())])


def mapped(x):
    """Within vmap a tensor stands for many."""
    places = torch.vmap(lambda row: row.sum() + torch.arange(3))(torch.arange(8).reshape(4, 2))
    return x.reshape(4, 3) * places


@pytest.mark.parametrize("function", [windows, positions, branches, chunks, mapped])
@torch.no_grad()
def test_values_of_constants_are_known(function):
    model, x = Model(function).eval(), torch.randn(12)
    with interpreted():
        compiled = ahead(model, (x,))
        assert_same(compiled(x), model(x), 1e-5, 1e-6)
    assert len(bridge.report(compiled).engines) == 1


@torch.no_grad()
def test_a_tensor_that_the_model_holds_is_known():
    model, x = (
        Model(lambda x, sizes: torch.cat(x.split(sizes.tolist())[::-1]), torch.tensor([5, 4, 3])).eval(),
        torch.randn(12),
    )
    assert_same(export(model, (x,), {}, None).module()(x), model(x))


class Strides(nn.Module):
    """As EnCodec's and EoMT's: extents and a branch come from buffers."""

    def __init__(self, writes=False):
        super().__init__()
        self.register_buffer("stride", torch.tensor(3), persistent=False)
        self.register_buffer("probability", torch.tensor([1.0, 0.0]))
        self.writes = writes

    def forward(self, x):
        if self.writes:
            self.stride.add_(x[0, 0].long())
        if self.probability[1] > 0:
            return x
        padding = self.stride - 1
        if x.shape[-1] % self.stride <= 1:
            x = torch.nn.functional.pad(x, (padding, padding // 2), "reflect")
        return x[..., : -self.stride] * self.probability[0]


@torch.no_grad()
def test_buffers_are_known():
    model, x = Strides().eval(), torch.randn(2, 12)
    with interpreted():
        compiled = ahead(model, (x,))
        assert_same(compiled(x), model(x), 1e-5, 1e-6)
    assert type(model.stride) is torch.Tensor and model.stride == 3


@torch.no_grad()
def test_a_buffer_that_the_model_writes_is_not_known():
    with pytest.raises(ExportError):
        export(Strides(writes=True).eval(), (torch.randn(2, 12),), {}, None)


def written(x, held):
    """Of a view, by an input."""
    held = held.clone()
    held.view(-1)[0] = x.argmax()
    return x[: int(held[0])]


def written_to_what_is_held(x, held):
    """Which stays as it is: the model's own tensor is not written to while it is traced."""
    held[:1].add_(1)
    return x[: int(held[0]) - 1]


def written_out(x, held):
    out = held + 1
    torch.add(x[:3].long(), 0, out=out)
    return x.split(out.tolist())[0]


def written_whole(x, held):
    held = held + 0
    held.copy_(x[:3])
    return x.split(held.tolist())[0]


def written_transposed(x, held):
    """Through a view that is not followed."""
    held = held + 0
    held[None].T.copy_(x[:3, None])
    return x.split(held.tolist())[0]


def written_by_a_function(x, held):
    signs = held - 4  # 1, 0, -1
    torch.nn.functional.relu(signs, True)
    return x[: 2 + int(signs.min())]


def multiplied(x, held):
    return x.split((x[:3].long() * 0 + held + x[3:6].long()).tolist())[0]


VIEWS = [written_transposed, written_by_a_function]


@pytest.mark.parametrize("function", [written, written_to_what_is_held, written_out, written_whole, *VIEWS, multiplied])
@torch.no_grad()
def test_what_depends_on_an_input_is_not_known(function):
    """The example's values would be wrong for other inputs: the program follows them, or is refused."""
    model = Model(function, torch.tensor([5, 4, 3])).eval()
    x, other = (torch.tensor([*sizes, 0, 0, 0, 1, 1, 1, 1, 1, 1]) + 0.0 for sizes in ((5, 4, 3), (2, 3, 7)))
    try:
        program = export(model, (x,), {}, None)
    except ExportError:
        return
    for given in (x, other):
        assert_same(program.module()(given), model(given))


@torch.no_grad()
def test_extents_stay_open():
    """A range as long as an input is not known, and a mask of it is computed in the engine."""

    def masked(x):
        place = torch.arange(x.shape[0])
        return torch.where(place < torch.tensor([4]), x, x * 2)

    model = Model(masked).eval()
    program = export(model, (torch.randn(12),), {}, (({0: Dim("length", min=2, max=64)},),))
    for length in (3, 12, 50):
        x = torch.randn(length)
        assert_same(program.module()(x), model(x))


@torch.no_grad()
def test_random_integers_are_not_known():
    """They are another in every call."""

    def chosen(x):
        return x[: int(torch.randint_like(torch.tensor([5, 5]), 1, 9).sum())]

    with pytest.raises(ExportError):
        export(Model(chosen).eval(), (torch.randn(12),), {}, None)


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
            x = nn.functional.pad(x, (0, missing))
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
