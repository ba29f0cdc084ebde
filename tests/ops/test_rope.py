import pytest
import torch
from draw import seeded
from samples.rope import TABLES, rope_arguments
from waiting import check_waits

import bridge
from bridge.core import libraries
from bridge.core.op import OPS
from bridge.errors import OpInputError
from bridge.testing import DTYPES, cast, check_cuda, check_error, check_export


def _angles(batch: int, seq: int, width: int) -> torch.Tensor:
    return torch.randn(batch, seq, width, generator=seeded(4))


def test_is_hugging_face_llama():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason="needs transformers")
    q, k, _, _ = rope_arguments(2, 5, (4, 2), 16)
    angles = torch.cat([_angles(2, 5, 8)] * 2, dim=-1)
    expected = llama.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    torch.testing.assert_close(bridge.rope(q, k, angles.cos(), angles.sin()), expected)
    half = angles[..., :8]
    torch.testing.assert_close(bridge.rope(q, k, half.cos(), half.sin()), expected)


def test_is_hugging_face_gptj():
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj", reason="needs transformers")
    q, k, cos, sin = rope_arguments(2, 5, (4, 2), 16, rotary=8, layout="bshd", table="[S, R/2]")
    rotated = [gptj.apply_rotary_pos_emb(x[..., :8], sin.expand(2, -1, -1), cos.expand(2, -1, -1)) for x in (q, k)]
    expected = [torch.cat((r, x[..., 8:]), dim=-1) for r, x in zip(rotated, (q, k), strict=True)]
    actual = bridge.rope(q, k, cos, sin, interleaved=True, rotary_dim=8, layout="bshd")
    torch.testing.assert_close(list(actual), expected)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [0, 8])
@pytest.mark.parametrize("gathered", [False, True])
def test_is_onnx_rotary_embedding(interleaved, rotary, gathered):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    from onnx.reference import ReferenceEvaluator

    q, k, cos, sin, *ids = rope_arguments(2, 5, (4, 2), 16, rotary, table="ids" if gathered else "[B, S, R]")
    if not gathered:
        cos, sin = cos[..., : (rotary or 16) // 2], sin[..., : (rotary or 16) // 2]
    names = ["x", "cos", "sin", "ids"][: 3 + gathered]
    attributes = {"interleaved": int(interleaved), "rotary_embedding_dim": rotary}
    node = onnx.helper.make_node("RotaryEmbedding", names, ["y"], **attributes)
    tensors = dict(zip(names[1:], (cos, sin, *ids), strict=True))
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(t.numpy().dtype) for name, t in {"x": q, **tensors}.items()}
    graph = onnx.helper.make_graph(
        [node],
        "rope",
        [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)]))
    actual = bridge.rope(q, k, cos, sin, *ids, interleaved=interleaved, rotary_dim=rotary)
    for x, ours in zip((q, k), actual, strict=True):
        feed = {name: t.numpy() for name, t in {"x": x, **tensors}.items()}
        torch.testing.assert_close(ours, torch.from_numpy(evaluator.run(None, feed)[0]), rtol=1e-5, atol=1e-5)


def test_position_ids_are_a_gather():
    q, k, cos, sin, ids = rope_arguments(2, 5, table="ids")
    expected = bridge.rope(q, k, cos[ids], sin[ids])
    assert all(torch.equal(a, b) for a, b in zip(bridge.rope(q, k, cos, sin, ids), expected, strict=True))


def test_layouts_agree():
    q, k, cos, sin = rope_arguments(2, 5)
    heads_last = bridge.rope(q.transpose(1, 2), k.transpose(1, 2), cos, sin, layout="bshd")
    for a, b in zip(heads_last, bridge.rope(q, k, cos, sin), strict=True):
        torch.testing.assert_close(a.transpose(1, 2), b)


@pytest.mark.parametrize("bad", [-1, 10])
def test_positions_outside_the_tables(bad):
    q, k, cos, sin, ids = rope_arguments(2, 5, table="ids")
    ids[1, 3] = bad
    with pytest.raises(IndexError):
        bridge.rope(q, k, cos, sin, ids)


def _args(**changes):
    named = dict(zip(("q", "k", "cos", "sin"), rope_arguments(2, 5, (4, 2), 16), strict=True))
    return {**named, **changes}


def _zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ("layout", _args(layout="sbhd"), 'layout is "sbhd", expected "bhsd" or "bshd"'),
    ("rank", _args(q=_zeros(2, 5, 16)), "q and k must have 4 dimensions"),
    ("batch", _args(k=_zeros(3, 2, 5, 16)), "q and k differ in batch, sequence or head_dim"),
    ("sequence", _args(k=_zeros(2, 2, 6, 16)), "q and k differ in batch, sequence or head_dim"),
    ("head_dim", _args(k=_zeros(2, 2, 5, 8)), "q and k differ in batch, sequence or head_dim"),
    ("odd rotary", _args(rotary_dim=7), "rotary_dim is 7, expected an even number"),
    ("negative rotary", _args(rotary_dim=-2), "rotary_dim is -2, expected an even number"),
    ("large rotary", _args(rotary_dim=18), "rotary_dim is 18, more than head_dim 16"),
    ("odd head_dim", _args(q=_zeros(2, 4, 5, 15), k=_zeros(2, 2, 5, 15)), "head_dim is 15, expected an even number"),
    ("table width", _args(cos=_zeros(5, 6), sin=_zeros(5, 6)), "have width 6, expected 8 or 16 for rotary_dim 16"),
    ("tables differ", _args(sin=_zeros(5, 16)), "cos and sin differ in shape"),
    ("table rows", _args(cos=_zeros(4, 8), sin=_zeros(4, 8)), "have 4 rows, expected 5"),
    ("table batch", _args(cos=_zeros(3, 5, 8), sin=_zeros(3, 5, 8)), "have batch 3, expected 2 or 1"),
    ("table rank", _args(cos=_zeros(8), sin=_zeros(8)), r"must be \[rows, width\] or \[batch, seq, width\]"),
    ("batched ids", _args(cos=_zeros(2, 5, 8), sin=_zeros(2, 5, 8), position_ids=_zeros(2, 5, dtype=torch.int64)),
     r"must be \[rows, width\], got"),
    ("ids shape", _args(position_ids=_zeros(2, 4, dtype=torch.int64)), r"position_ids has shape .*, expected \[2, 5\]"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_bad_input(args, text):
    with pytest.raises(OpInputError, match=text):
        bridge.rope(**args)
    tensors, attributes = OPS["rope"].bind((), args)
    with pytest.raises(OpInputError, match=text):
        libraries.infer_shapes(OPS["rope"], [None if t is None else tuple(t.shape) for t in tensors], attributes)


def test_tables_are_of_one_dtype():
    """The kernel reads both as one type: tables of two would be read wrongly, and out of bounds."""
    args = {name: value.half() for name, value in _args().items()}
    with pytest.raises(OpInputError, match=r"cos and sin differ in dtype: torch\.float16 and torch\.float32"):
        bridge.rope(**{**args, "sin": args["sin"].float()})
    assert bridge.rope(**{**args, "cos": args["cos"].float(), "sin": args["sin"].float()})[0].dtype == torch.float16


@pytest.mark.gpu
def test_the_kernel_refuses_tables_of_two_dtypes():
    args = [value.half().cuda() for value in _args().values()]
    with pytest.raises(ValueError, match="rope: cos and sin differ in dtype: float16 and float32"):
        torch.ops.bridge.rope(*args[:3], args[3].float())


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (_args(k=_zeros(2, 2, 5, 16, dtype=torch.float16)), "k is torch.float16, expected torch.float32"),
        (_args(q=_zeros(2, 4, 5, 16, dtype=torch.int64)), "q is torch.int64, expected torch.float32"),
        (_args(cos=_zeros(5, 8, dtype=torch.float16)), "cos is torch.float16, expected torch.float32"),
        (_args(position_ids=_zeros(2, 5)), "position_ids is torch.float32, expected torch.int32 or torch.int64"),
    ],
)
def test_bad_dtypes(args, text):
    with pytest.raises(OpInputError, match=text):
        bridge.rope(**args)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_export(layout):
    batch, seq = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("seq", min=1, max=128)
    of_x = {0: batch, (2 if layout == "bhsd" else 1): seq}
    table = {0: batch, 1: seq}
    check_export(
        OPS["rope"],
        lambda n: rope_arguments(n, n + 4, layout=layout, table="[B, S, R]"),
        [of_x, of_x, table, table],
        layout=layout,
    )


@pytest.mark.gpu
def test_cuda_float32_tables_with_reduced_precision():
    q, k, cos, sin = rope_arguments(2, 5, (4, 2), 64)
    for dtype in (torch.float16, torch.bfloat16):
        given = [q.to(dtype), k.to(dtype), cos, sin]
        exact, peer = OPS["rope"].run(*cast(given, torch.float64)), bridge.rope(*given)
        for wanted, rounded, ours in zip(exact, peer, bridge.rope(*cast(given, device="cuda")), strict=True):
            assert ours.dtype == dtype
            check_error(f"rope, {dtype}, float32 tables", wanted, rounded, ours.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("bad", [-1, 10, 2**40])
def test_cuda_positions_outside_the_tables_are_nan(bad):
    q, k, cos, sin, ids = rope_arguments(2, 5, table="ids", rotary=8)
    expected = bridge.rope(q, k, cos, sin, ids, rotary_dim=8)
    ids[1, 3] = bad
    actual = bridge.rope(q.cuda(), k.cuda(), cos.cuda(), sin.cuda(), ids.cuda(), rotary_dim=8)
    for a, b in zip(actual, expected, strict=True):
        a = a.cpu()
        assert a[1, :, 3, :8].isnan().all()
        a[1, :, 3, :8] = b[1, :, 3, :8]
        torch.testing.assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize(("args", "text"), [pytest.param(args, text, id=label) for label, args, text in BAD])
def test_cuda_bad_input(args, text):
    given = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in args.items()}
    with pytest.raises((RuntimeError, ValueError), match=text):
        bridge.rope(**given)


@pytest.mark.gpu
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shift", [0, 4], ids=["aligned", "unaligned"])
def test_cuda_takes_strided_tensors_as_they_are(shift, interleaved):
    """Queries and keys as they leave a joint projection: slices of its result, with heads moved before tokens."""
    batch, seq, heads, head_dim = 2, 5, (3, 2), 16
    joint = torch.randn(batch, seq, shift + sum(heads) * head_dim, dtype=torch.float16, device="cuda")
    parts = joint[..., shift:].split([n * head_dim for n in heads], -1)
    q, k = (part.unflatten(-1, (n, head_dim)).transpose(1, 2) for part, n in zip(parts, heads, strict=True))
    angles = _angles(1, seq, head_dim // 2)[0].cuda()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        strided = bridge.rope(q, k, angles.cos(), angles.sin(), interleaved=interleaved)
        torch.cuda.synchronize()
    dense = bridge.rope(q.contiguous(), k.contiguous(), angles.cos(), angles.sin(), interleaved=interleaved)
    assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(strided, dense, strict=True))
    assert not any("copy" in event.name.lower() for event in profile.events())


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("rotary", [0, 24], ids=["whole heads", "parts of heads"])
@pytest.mark.parametrize("seq", [1, 20000])
def test_cuda_waits_for_what_comes_before(seq, rotary, captured):
    arguments = rope_arguments(1, seq, (16, 8), 96, rotary, table="[S, R/2]")
    q, k, cos, sin = (tensor.to("cuda", torch.float16) for tensor in arguments)
    check_waits(lambda x: bridge.rope(x, k, cos, sin, rotary_dim=rotary)[0], q, captured)


@pytest.mark.gpu
def test_cuda_many_tokens_are_the_reference():
    """More than one head a thread, and batches beyond a grid's last dimension."""
    for batch, seq, heads in ((2, 700, (13, 4)), (70000, 1, (1, 1))):
        q, k = (torch.randn(batch, seq, n, 8 if batch > 100 else 128, dtype=torch.float16) for n in heads)
        angles = _angles(1, seq, q.shape[-1] // 2)[0]
        for interleaved in (False, True):
            check_cuda(
                OPS["rope"], torch.float16, q, k, angles.cos(), angles.sin(), interleaved=interleaved, layout="bshd"
            )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("head_dim", "rotary"), [(96, 24), (80, 20), (24, 4)])
def test_cuda_halves_that_are_no_whole_accesses(head_dim, rotary, table, dtype):
    """More heads than a thread has, in blocks of which the last is not full."""
    for batch, seq, heads in ((2, 70, (13, 4)), (1, 1, (64, 64)), (3, 5, (1, 1))):
        args = rope_arguments(batch, seq, heads, head_dim, rotary, table=table)
        check_cuda(OPS["rope"], dtype, *args, rotary_dim=rotary)


@pytest.mark.gpu
def test_cuda_few_tokens_that_lie_far_apart():
    """Further than offsets of 32 bits reach, which the kernel for few tokens has."""
    gap, shape = 2**32 + 64, (2, 3, 1, 64)
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of GPU memory")
    q = torch.empty(gap + 1024, dtype=torch.float16, device="cuda").as_strided(shape, (gap, 64, 64, 1))
    q.copy_(torch.randn(shape))
    k, angles = torch.randn(shape).to(q), _angles(1, 3, 32)[0].cuda()
    far = bridge.rope(q, k, angles.cos(), angles.sin(), layout="bshd")
    dense = bridge.rope(q.contiguous(), k.contiguous(), angles.cos(), angles.sin(), layout="bshd")
    assert all(torch.equal(a, b) for a, b in zip(far, dense, strict=True))
