import pytest
import torch
from refusals import check_refused
from samples.swin_attention import swin_attention_arguments
from torch.nn.functional import linear, normalize, pad, scaled_dot_product_attention

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.testing import cast, check_cuda, check_error, check_export

OP = OPS["swin_attention"]
HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [((14, 21), (7, 7), (3, 3)), ((14, 14), (7, 7), (0, 0)), ((9, 13), (4, 6), (2, 3)), ((7, 14), (7, 7), (3, 3))],
)
def test_is_torchvisions_shifted_windows(size, window, shift, version):
    """Which pad, shift only where there are several windows, and project before and after."""
    swin = pytest.importorskip("torchvision.models.swin_transformer", reason="needs torchvision")
    x, weight, out = torch.randn(2, *size, 24), torch.randn(72, 24) / 4, torch.eye(24)
    bias, scale = torch.randn(1, 3, window[0] * window[1], window[0] * window[1]), torch.rand(3, 1, 1) * 6
    extra = {} if version == 1 else {"logit_scale": scale}
    expected = swin.shifted_window_attention(
        x, weight, out, bias, list(window), 3, list(shift), qkv_bias=torch.zeros(72), **extra
    )
    padded = pad(x, (0, 0, 0, -size[1] % window[1], 0, -size[0] % window[0]))
    shift = tuple(0 if w >= extent else s for s, w, extent in zip(shift, window, padded.shape[1:3], strict=True))
    factor = None if version == 1 else scale.clamp(max=100.0**0.5).clamp(max=4.605170185988092).exp().flatten()
    actual = bridge.swin_attention(
        linear(padded, weight), bias=bias[0], logit_scale=factor, heads=3, window=window, shift=shift
    )
    torch.testing.assert_close(actual[:, : size[0], : size[1]], expected, rtol=1e-4, atol=1e-4)


# From a map [N, H, W, C] of 2 × 3 windows, or of 7 × 7 places of grids, to windows.
CUTS = {False: ((2, 2, 7, 3, 7, 24), (0, 1, 3, 2, 4, 5)), True: ((2, 7, 2, 7, 3, 24), (0, 2, 4, 1, 3, 5))}


@pytest.mark.parametrize("grid", CUTS)
def test_is_torchvisions_maxvit(grid):
    maxvit = pytest.importorskip("torchvision.models.maxvit", reason="needs torchvision")
    layer = maxvit.RelativePositionalMultiHeadAttention(24, 8, 49).eval()
    shape, order = CUTS[grid]
    x = torch.randn(2, 14, 21, 24)
    expected = layer(x.view(shape).permute(order).reshape(2, 6, 49, 24))
    bias = layer.get_relative_positional_bias()[0]
    qkv = linear(x, layer.to_qkv.weight, layer.to_qkv.bias)
    attended = bridge.swin_attention(qkv, bias=bias, heads=3, window=7, grid=grid, scale=layer.scale_factor)
    actual = linear(attended, layer.merge.weight, layer.merge.bias)
    actual = actual.view(shape).permute(order).reshape(2, 6, 49, 24)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cosine", [False, True])
def test_windows_are_attention_with_a_dense_mask(cosine):
    """One of three masks for every third window."""
    q, _, _, bias, mask, scale = swin_attention_arguments((6, 20), 2, 16, masks=3, cosine=cosine)
    actual = bridge.swin_attention(q, bias=bias, mask=mask, logit_scale=scale, heads=2)
    parts = [t.transpose(1, 2) for t in q.view(6, 20, 3, 2, 16).unbind(2)]
    if cosine:
        parts[:2] = normalize(parts[0], dim=-1) * scale[:, None, None], normalize(parts[1], dim=-1)
    dense = bias + mask.repeat(2, 1, 1)[:, None]
    expected = scaled_dot_product_attention(*parts, attn_mask=dense, scale=1.0 if cosine else None)
    torch.testing.assert_close(actual, expected.transpose(1, 2).flatten(2))


def test_orders_of_channels_agree():
    q, k, v, bias, *_ = swin_attention_arguments((3, 9), 4, 8, packed=False)
    expected = bridge.swin_attention(q, k, v, bias, heads=4)
    packed = torch.cat((q, k, v), -1)
    by_head = torch.stack([t.view(3, 9, 4, 8) for t in (q, k, v)], 3).flatten(2)
    torch.testing.assert_close(bridge.swin_attention(packed, bias=bias, heads=4), expected)
    torch.testing.assert_close(bridge.swin_attention(by_head, bias=bias, heads=4, head_major=True), expected)


def test_windows_of_a_map_are_those_windows():
    """A window that spans the end of the map, along both axes, has four parts that do not see each other."""
    q, *_ = swin_attention_arguments((1, 8, 8), 1, 8, (4, 4))
    out = bridge.swin_attention(q, heads=1, window=4, shift=(1, 2), shift_mask=-torch.inf)
    corner = bridge.swin_attention(q[:, :1, :2].reshape(1, 2, 24), heads=1)
    torch.testing.assert_close(out[:, :1, :2].reshape(1, 2, 8), corner)
    middle = bridge.swin_attention(q[:, 1:5, 2:6].reshape(1, 16, 24), heads=1)
    torch.testing.assert_close(out[:, 1:5, 2:6].reshape(1, 16, 8), middle)
    edge = bridge.swin_attention(q[:, 5:, 2:6].reshape(1, 12, 24), heads=1)
    torch.testing.assert_close(out[:, 5:, 2:6].reshape(1, 12, 8), edge)


def test_zero_vectors_have_cosine_zero():
    q, _, _, bias, _, scale = swin_attention_arguments((2, 9), cosine=True)
    q[0, 3] = 0
    out = bridge.swin_attention(q, bias=bias, logit_scale=scale, heads=2)
    weights = torch.softmax(bias[:, 3], -1)  # [heads, T]
    expected = torch.einsum("ht,thd->hd", weights, q[0, :, 64:].view(9, 2, 16))
    torch.testing.assert_close(out[0, 3].view(2, 16), expected)


def _args(**changes):
    return {"q": torch.zeros(6, 9, 48), "heads": 2, **changes}


def _map(**changes):
    return {"q": torch.zeros(2, 8, 12, 48), "heads": 2, "window": 4, **changes}


def _zeros(*shape):
    return torch.zeros(shape)


BAD = [
    ("rank", _args(q=_zeros(6, 48)), r"q has shape .6, 48., expected \[windows, tokens, channels\]"),
    ("k alone", _args(k=_zeros(6, 9, 48)), "k and v must be given together"),
    ("k", _args(k=_zeros(6, 8, 48), v=_zeros(6, 9, 48)), "k has shape .6, 8, 48., expected .6, 9, 48"),
    ("v", _args(k=_zeros(6, 9, 48), v=_zeros(6, 9, 47)), "v has shape .6, 9, 47., expected .6, 9, 48"),
    ("order", _args(k=_zeros(6, 9, 48), v=_zeros(6, 9, 48), head_major=True), "head_major is of a q that holds"),
    ("heads", _args(heads=0), "heads is 0, expected 1 or more"),
    ("channels", _args(heads=5), r"q has 48 channels, expected 3 heads \(5\) times a head_dim of 1 to 256"),
    ("wide", _args(q=_zeros(1, 2, 771), heads=1), r"q has 771 channels, expected 3 heads \(1\) times"),
    ("none", _args(q=_zeros(1, 2, 0)), "q has 0 channels"),
    ("scale", _args(scale=float("nan")), "scale is nan, expected a finite number"),
    ("shift mask", _map(shift_mask=float("nan")), "shift_mask is nan, expected a number"),
    ("window", _map(window=0), "window is 0 x 0, expected 1 x 1 or more for a map"),
    ("negative window", _map(window=(4, -4)), "window is 4 x -4, expected 1 x 1 or more"),
    ("of windows", _args(window=3), "window 3 x 3, shift 0 x 0 and grid are of a map .*, but q has shape .6, 9, 48"),
    ("shift", _map(shift=(1, 4)), "shift is 1 x 4, expected 0 or more, and less than window, 4 x 4"),
    ("negative shift", _map(shift=-1), "shift is -1 x -1, expected 0 or more"),
    ("extents", _map(window=(4, 5)), "q has shape .2, 8, 12, 48., expected multiples of window, 4 x 5, along H and W"),
    ("grid", _map(grid=True, shift=(0, 1)), "shift is 0 x 1, expected 0 x 0 with grid"),
    ("bias", _args(bias=_zeros(1, 9, 9)), "bias has shape .1, 9, 9., expected .2, 9, 9"),
    ("map bias", _map(bias=_zeros(2, 9, 9)), "bias has shape .2, 9, 9., expected .2, 16, 16"),
    ("logit scale", _args(logit_scale=_zeros(2, 1, 1)), "logit_scale has shape .2, 1, 1., expected .2"),
    ("mask", _args(mask=_zeros(2, 9, 8)), "mask has shape .2, 9, 8., expected"),
    ("masks", _args(mask=_zeros(4, 9, 9)), "mask has shape .4, 9, 9., expected as many as divide the 6 windows"),
    ("no masks", _args(mask=_zeros(0, 9, 9)), "mask has shape .0, 9, 9., expected as many as divide the 6 windows"),
    ("map masks", _map(mask=_zeros(5, 16, 16)), "expected as many as divide the 12 windows"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    check_refused(OP, text, args)


def test_export_of_windows():
    batch, length = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("length", min=1, max=128)
    table = {1: length, 2: length}
    check_export(
        OP,
        lambda n: swin_attention_arguments((n, n + 4), masks=1, cosine=True),
        [{0: batch, 1: length}, None, None, table, table, None],
        heads=2,
    )


def test_export_of_maps():
    """Of any number of windows along each axis."""
    batch, rows = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("rows", min=1, max=32)
    check_export(
        OP,
        lambda n: swin_attention_arguments((n, 4 * n, 8), window=(4, 4)),
        [{0: batch, 1: 4 * rows}, None, None, None, None, None],
        heads=2,
        window=(4, 4),
        shift=(2, 1),
    )


# Each kernel, by head_dim and the tokens of a window, and blocks of more than 32 windows: lead of q, heads, head_dim.
WINDOWS = [
    ((70, 49), 3, 32),
    ((6, 64), 2, 32),
    ((5, 7), 4, 24),
    ((9, 1), 1, 8),
    ((9000, 4), 2, 8),
    ((33, 49), 2, 64),
    ((3, 62), 2, 40),
    ((4, 144), 2, 32),
    ((3, 256), 2, 32),
    ((3, 77), 3, 32),
    ((2, 576), 1, 32),
    ((3, 96), 2, 64),
    ((2, 201), 1, 56),
    ((3, 130), 2, 128),
    ((4, 50), 1, 96),
    ((2, 45), 2, 160),
    ((6, 49), 2, 20),
]


@pytest.mark.parametrize("least", [-1e300, -float("inf")])
def test_a_shift_mask_beyond_float32_hides_what_is_apart(least):
    args = swin_attention_arguments((1, 8, 8), window=(4, 4))
    settings = {"heads": 2, "window": (4, 4), "shift": (1, 2)}
    hidden = bridge.swin_attention(*args, **settings, shift_mask=-1e30)
    torch.testing.assert_close(bridge.swin_attention(*args, **settings, shift_mask=least), hidden)


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("lead", "heads", "head_dim"), WINDOWS)
def test_cuda_windows(lead, heads, head_dim, dtype, tactic):
    masks = (0, 1, lead[0])
    with libraries.tactic("swin_attention", tactic):
        for seed in range(6):
            bias, packed, cosine = seed != 3, seed % 2 == 0, seed > 2
            args = swin_attention_arguments(lead, heads, head_dim, None, packed, bias, masks[seed % 3], cosine, seed)
            check_cuda(OP, dtype, *args, heads=heads, head_major=seed == 4)


# Maps, windows, shifts; as in WINDOWS.
MAPS = [
    ((3, 14, 21), (7, 7), (3, 3)),
    ((64, 56, 56), (7, 7), (3, 3)),
    ((1, 16, 8), (8, 8), (4, 0)),
    ((2, 24, 36), (12, 12), (6, 5)),
    ((2, 10, 9), (5, 3), (0, 2)),
    ((100, 12, 20), (2, 2), (1, 1)),
    ((1, 32, 16), (16, 16), (8, 0)),
    ((40, 24, 36), (12, 12), (6, 6)),
    ((9, 28, 28), (14, 14), (7, 3)),
    ((2, 24, 48), (24, 24), (12, 12)),
    ((5, 7, 7), (7, 7), (0, 0)),
]


@pytest.mark.gpu
@pytest.mark.parametrize("tactic", [0, 1])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(("lead", "window", "shift"), MAPS)
def test_cuda_maps(lead, window, shift, cosine, dtype, tactic):
    args = swin_attention_arguments(lead, 3, 32, window, cosine=cosine)
    with libraries.tactic("swin_attention", tactic):
        check_cuda(OP, dtype, *args, heads=3, window=window, shift=shift)
        check_cuda(OP, dtype, *args, heads=3, window=window, grid=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tokens", [49, 144, 77])
def test_cuda_tables_of_float32(tokens, dtype):
    args = cast(swin_attention_arguments((6, tokens), 2, 32, masks=3, cosine=True), dtype)
    args[3:] = swin_attention_arguments((6, tokens), 2, 32, masks=3, cosine=True)[3:]
    exact, peer = OP.run(*cast(args, torch.float64), heads=2), bridge.swin_attention(*args, heads=2)
    check_error("swin_attention", exact, peer, bridge.swin_attention(*cast(args, device="cuda"), heads=2).cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("lead", [(6, 49), (3, 150), (2, 14, 21)])
def test_cuda_strides(lead, dtype):
    """Channels of a wider tensor, at 16 bytes and not; and tokens of a transposed one."""
    window = {"window": (7, 7)} if len(lead) == 3 else {}
    for wider, first in ((16, 8), (5, 3)):
        wide = torch.randn(*lead, 192 + wider).to(dtype)
        q = wide[..., first : first + 192]
        expected = OP.run(q.double(), heads=2, **window)
        ours = bridge.swin_attention(wide.cuda()[..., first : first + 192], heads=2, **window).cpu()
        check_error("swin_attention", expected, bridge.swin_attention(q, heads=2, **window), ours)
    turned = torch.randn(*lead[:-2], lead[-1], lead[-2], 192).to(dtype)
    if window:
        turned = torch.randn(lead[0], lead[2], lead[1], 192).to(dtype)
    q = turned.transpose(-2, -3)
    expected = OP.run(q.double(), heads=2, **window)
    ours = bridge.swin_attention(turned.cuda().transpose(-2, -3), heads=2, **window).cpu()
    check_error("swin_attention", expected, bridge.swin_attention(q, heads=2, **window), ours)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("tokens", [49, 64, 144, 77])
def test_cuda_bad_numbers_stay_in_their_window_and_head(tokens, dtype):
    for part in range(3):
        q, _, _, bias, *_ = cast(swin_attention_arguments((700, tokens), 2, 32), dtype)
        q[5, 1, 64 * part + 32] = torch.nan  # of the second head
        ours = bridge.swin_attention(*cast([q, None, None, bias], device="cuda"), heads=2).cpu()
        bad = ours.isnan().view(700, tokens, 2, 32).nonzero().unique(dim=0)
        assert len(bad) and (bad[:, 0] == 5).all() and (bad[:, 2] == 1).all()
        assert part or (bad[:, 1] == 1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("tokens", [49, 144])
def test_cuda_masks_of_infinity(tokens, dtype):
    """A query that no mask hides all keys of is as in PyTorch; one whose every key is hidden is NaN, as there."""
    args = cast(swin_attention_arguments((4, tokens), 2, 32, masks=2), dtype)
    args[4] = torch.where(args[4] < 0, -torch.inf, 0.0).to(dtype)
    args[4][1, 7] = -torch.inf
    expected = OP.run(*cast(args, torch.float64), heads=2)
    ours = bridge.swin_attention(*cast(args, device="cuda"), heads=2).cpu()
    assert torch.equal(ours.isnan(), expected.isnan()) and ours.isnan().any()
    kept = ~expected.isnan()
    check_error("swin_attention", expected[kept], bridge.swin_attention(*args, heads=2)[kept], ours[kept])
