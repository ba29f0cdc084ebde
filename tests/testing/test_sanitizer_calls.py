"""The calls that `bridge sanitize` makes; on a GPU also that they run."""

import json
from types import SimpleNamespace

import pytest
import torch
from samples import deform_conv2d, relu

from bridge.core.library import LIBRARIES
from bridge.core.op import OPS, written
from bridge.testing import cast, sanitizer_calls
from bridge.testing.sanitizer_calls import Call, Job, Way


def job(*names):
    return Job("bridge", names, "samples")


def test_samples_of_every_op_are_found():
    assert all(sanitizer_calls.every_sample(op, "samples") for op in written().values())
    found = sanitizer_calls.every_sample(OPS["deform_conv2d"], "samples")
    assert len(found) == len(deform_conv2d.samples()) + 2 * len(deform_conv2d.further())
    assert found[-1][2]["allow_tf32"]
    assert len(sanitizer_calls.every_sample(OPS["relu"], "samples")) == len(relu.samples())


@pytest.mark.parametrize("name", OPS)
def test_tactics_are_asked_of_the_plugin(name):
    for _, args, kwargs in sanitizer_calls.every_sample(OPS[name], "samples"):
        tensors, attributes = OPS[name].bind(cast(args, torch.float16), kwargs)
        found = sanitizer_calls.ways(OPS[name], tensors, attributes)
        assert found[:2] == [Way(), Way(aligned=False)] and len(set(found)) == len(found)


def ways(name, shape, dtype=torch.float16, module=None):
    """Those of the sample whose first tensor has that shape."""
    samples = sanitizer_calls.every_sample(OPS[name], "samples")
    _, args, kwargs = next(sample for sample in samples if sample[1][0].shape == torch.Size(shape))
    tensors, attributes = OPS[name].bind(cast(args, dtype), kwargs)
    return set(sanitizer_calls.ways(OPS[name], tensors, attributes, module)) - {Way(), Way(aligned=False)}


def test_channels_are_last_where_kernels_take_them_so():
    by_plugin = {Way(aligned=aligned, last=True, plugin=True) for aligned in (True, False)}
    assert ways("roi_align", (2, 3, 7, 9)) == {Way(last=True)}
    assert ways("deform_conv2d_fused", (2, 64, 20, 33)) == {Way(last=True), Way(last=True, plugin=True)}
    assert ways("deform_conv2d_fused", (2, 4, 7, 9)) == {Way(last=True)}  # TensorRT would round channels up
    assert ways("group_norm", (2, 320, 33, 32)) == by_plugin  # PyTorch's results are in rows, and so is x
    assert not ways("group_norm", (2, 35, 17, 13)) and not ways("group_norm", (2, 6, 4))
    assert ways("group_norm", (2, 35, 17, 13), torch.float32) == by_plugin
    assert not ways("rope", (2, 4, 5, 16))


def test_what_only_samples_know_of_kernels():
    module = SimpleNamespace(TACTICS=(0, 7), CONSTANTS=("weight",))
    assert ways("relu", (0,), module=module) == {
        *(Way(number, aligned) for number in (0, 7) for aligned in (True, False)),
        Way(plugin=True),
    }


def test_dtypes_of_results_and_of_tensors_that_are_declared_alike(monkeypatch):
    every = sanitizer_calls.every_sample
    monkeypatch.setattr(sanitizer_calls, "every_sample", lambda op, where: every(op, where)[:1])
    results = [each.kwargs["dtype"] for each in sanitizer_calls.calls(job("preprocess"))]
    assert set(results) == {"float32", "float16", "bfloat16"}
    tables = {tuple(tensor.dtype for tensor in each.args[:4]) for each in sanitizer_calls.calls(job("rope"))}
    half, wide = torch.float16, torch.float32
    assert {(half,) * 4, (half, half, wide, wide), (wide,) * 4} < tables and len(tables) == 5


def test_shares_are_all_calls_once(monkeypatch, capsys):
    monkeypatch.setattr(sanitizer_calls, "make", lambda each: None)
    made = list(sanitizer_calls.calls(job("relu", "roi_align")))  # takes most of the time: once for the shares
    with monkeypatch.context() as patch:
        patch.setattr(sanitizer_calls, "calls", lambda job: iter(made))
        counts = [sanitizer_calls.run(job("relu", "roi_align"), share, 4) for share in range(4)]
    parts = capsys.readouterr().out.splitlines()
    assert sanitizer_calls.run(job("relu", "roi_align")) == sum(counts) == len(parts)
    assert max(counts) - min(counts) <= 1
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(parts)


def test_only_the_calls_that_are_asked_for(monkeypatch, tmp_path, capsys):
    made = [Call(str(number), OPS["relu"], (), {}, Way()) for number in range(10)]
    monkeypatch.setattr(sanitizer_calls, "calls", lambda job: iter(made))
    monkeypatch.setattr(sanitizer_calls, "make", lambda each: None)
    written, chosen = tmp_path / "only.json", {number: str(number) for number in (1, 3, 5, 8)}
    command = ["bridge", "--share", "2/2", "--only", str(written)]
    written.write_text(json.dumps(chosen))
    assert sanitizer_calls.main(command) == 0
    assert capsys.readouterr().out.splitlines() == ["3", "8", "2 calls"]
    written.write_text(json.dumps(chosen | {8: "relu, float16"}))
    with pytest.raises(RuntimeError, match="call 8 was chosen as 'relu, float16', and is '8': choose anew"):
        sanitizer_calls.main(command)
    written.write_text(json.dumps(chosen | {10: "10", 12: "12"}))
    with pytest.raises(RuntimeError, match="there are no calls 10, 12, which were chosen"):
        sanitizer_calls.main(command)


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "x"])
def test_shares_that_are_none(wrong, capsys):
    with pytest.raises(SystemExit):
        sanitizer_calls.main(["bridge", "--share", wrong])
    assert f"a share is as 2/8, the second of eight, not '{wrong}'" in capsys.readouterr().err


def test_a_job_runs_in_another_process(capsys):
    command = job("relu").command()
    assert command[1:5] == ["-m", "bridge.testing.sanitizer_calls", "bridge", "relu"]
    assert command[5] == "--import" and command[7:] == ["--samples", "samples"]
    assert job("relu").environment() == {"BRIDGE_LIBRARY_DIR": str(LIBRARIES["bridge"].find("torch").parent)}


def test_what_is_not_aligned_holds_the_same(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    for shape in [(), (0, 3), (2, 3)]:
        tensor = torch.randn(shape)
        copy = sanitizer_calls.on_gpu(tensor, aligned=False)
        assert torch.equal(copy, tensor) and copy.is_contiguous() and copy.storage_offset() == 1
    images = torch.randn(2, 3, 4, 5)
    for aligned in (True, False):
        copy = sanitizer_calls.on_gpu(images, aligned, last=True)
        assert torch.equal(copy, images) and copy.is_contiguous(memory_format=torch.channels_last)
        assert copy.storage_offset() == (0 if aligned else 1)


def test_an_error_says_which_call_it_was():
    with pytest.raises(RuntimeError, match=r"^relu, a: AttributeError: "):
        sanitizer_calls.make(Call("relu, a", OPS["relu"], (), {}, None))


@pytest.mark.gpu
def test_the_calls_run(capsys, monkeypatch):
    every = sanitizer_calls.samples_of
    monkeypatch.setattr(sanitizer_calls, "samples_of", lambda op, where: every(op, where)[::9])
    assert sanitizer_calls.main(["bridge", "--samples", "samples"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} calls" and any("float16, tactic 1, not" in line for line in lines)
