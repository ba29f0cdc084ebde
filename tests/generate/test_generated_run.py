"""What a generated op enqueues: on a fake CUDA runtime that writes it down, and on a GPU against torch."""

import json
import struct
import subprocess

import pytest
import torch
from generated_runner import build_runner, output, run_op

from bridge.generate.build import build


@pytest.fixture(scope="module")
def program(generated, shared_cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("fake") / "runner"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRIDGE_CACHE_DIR", str(shared_cache))
        build_runner(generated.folder, path, fake=True)
    return path


@pytest.fixture
def run(program, generated):
    """Runs an op on the fake runtime."""

    def run(op, tensors, *options, **environment):
        return run_op(program, generated.names[op], tensors, *options, **environment)

    return run


def rows(count, width):
    return torch.ones(count, width, dtype=torch.float16), torch.ones(width, dtype=torch.float16)


def launches(lines):
    """Launches without the size of their code."""
    return [line.rpartition(", code")[0] for line in lines if line.startswith("launch")]


def code_bytes(lines):
    """Of every launch, in order: which variant it was."""
    return [int(line.split()[-2]) for line in lines if line.startswith("launch")]


def test_the_region_and_its_grids_follow_from_the_extents(run):
    lines = run("rms_norm", rows(3, 512))
    assert launches(lines)[:2] == [
        "launch row_scale grid 3,1,1 block 128 shared 16",
        "launch apply_scale grid 3,2,1 block 128 shared 0",
    ]
    lines = run("rms_norm", rows(3, 513))
    assert launches(lines)[1].startswith("launch apply_scale grid 3,3,1 block 128 ")


def test_a_tactic_is_a_configuration(run):
    lines = run("rms_norm", rows(3, 513), "tactic=1")
    assert lines[0] == "tactics: 0 1"
    assert launches(lines)[1].startswith("launch apply_scale grid 3,1,1 block 256 ")


def test_tactics_are_those_that_the_gpu_has_code_for(run):
    tensors = (torch.ones(64, 64, dtype=torch.float16), torch.ones(64, 64, dtype=torch.float16))
    assert run("product", tensors, FAKE_CAPABILITY="86")[0] == "tactics: 0"
    assert run("product", tensors, FAKE_CAPABILITY="90")[0] == "tactics: 0 1"
    assert run("product", tensors, FAKE_CAPABILITY="89")[0] == "tactics: 0"  # runs code for 86


def test_more_than_48_kilobytes_of_shared_memory_are_asked_for_once(run):
    tensors = (torch.ones(64, 64, dtype=torch.float16), torch.ones(64, 64, dtype=torch.float16))
    lines = run("product", tensors, "tactic=1", FAKE_CAPABILITY="90")
    shared = [line for line in lines if line.startswith("set")]
    assert shared[0].startswith("set matmul shared ")
    assert int(shared[0].split()[-1]) > 48 << 10
    assert len(shared) == 1
    assert shared[0].split()[-1] == launches(lines)[0].split()[-1]


def test_a_kernel_is_loaded_once_and_in_relaxed_mode(run):
    lines = run("rms_norm", rows(3, 512), "threads=4")
    assert lines.count("load") == 6  # two kernels, each in three variants
    assert not [line for line in lines if line.startswith("load ")]


def variants(generated, op, kernel):
    """Sizes of a kernel's code: that for divisible arguments, that for divisible pointers, and that for none."""
    described = json.loads((generated.folder / "library.json").read_text())
    (regions,) = [each["regions"] for each in described["ops"] if each["name"] == generated.names[op]]
    steps = [step["launch"][0] for region in regions for step in region["steps"] if "launch" in step]
    chosen = next(step for step in steps if step["kernel"].startswith(kernel))
    names = [chosen[which] for which in ("divisible", "aligned", "kernel")]
    files = [generated.folder / "sources" / f"{generated.names[op]}.{name}.fatbin" for name in names]
    return tuple(struct.unpack_from("<Q", file.read_bytes(), 8)[0] for file in files)


def test_code_for_divisible_arguments_is_taken_where_all_are(run, generated):
    fast, aligned, general = variants(generated, "rms_norm", "row_scale")
    assert fast not in (aligned, general)
    assert code_bytes(run("rms_norm", rows(3, 512)))[0] == fast
    assert code_bytes(run("rms_norm", rows(3, 512), "offset=16"))[0] == fast
    assert code_bytes(run("rms_norm", rows(3, 512), "offset=8"))[0] == general
    assert code_bytes(run("rms_norm", rows(3, 511)))[0] == aligned  # the width is an argument too
    assert code_bytes(run("rms_norm", rows(3, 511), "offset=8"))[0] == general


def test_memory_is_cleared_and_copied(run):
    lines = run("counted", (torch.zeros(3, 5, dtype=torch.int32),))
    steps = [line.partition(", code")[0] for line in lines if line.startswith(("zero", "launch", "copy"))]
    assert steps[:4] == ["zero 32", "launch histogram grid 1,1,1 block 64 shared 0", "copy 32", "copy 60"]


def test_extents_that_no_region_takes_are_an_error(run):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("counted", (torch.zeros(3, 281, dtype=torch.int32),))
    assert "no kernels were generated for extents index.shape[0]=3 index.shape[1]=281" in caught.value.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FAKE_CAPABILITY": "80"}, "cudaErrorNoKernelImageForDevice"),
        ({"FAKE_CAPABILITY": "121"}, "cudaErrorNoKernelImageForDevice"),
        ({"FAKE_CAPABILITY": "0"}, "cudaErrorNoDevice"),
        ({"FAKE_FAILS": "1"}, "cudaErrorNoKernelImageForDevice"),
    ],
)
def test_a_kernel_that_does_not_load_is_an_error(run, environment, message):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("rms_norm", rows(3, 512), **environment)
    assert f"kernel row_scale: {message}: " in caught.value.stderr
    assert not launches(caught.value.stdout.splitlines())


def rms_norm(x, weight):
    wide = x.double()
    return (wide / (wide.square().mean(1, keepdim=True) + 1e-6).sqrt() * weight.double()).to(x.dtype)


def cases():
    """Op, inputs, outputs, the greatest error."""
    torch.manual_seed(0)
    for height, width in ((1, 16), (7, 512), (33, 513), (64, 4096), (5, 4095)):
        x, weight = torch.randn(height, width).half(), torch.randn(width).half()
        yield "rms_norm", (x, weight), (rms_norm(x, weight),), 5e-3
    for m, k, n in ((128, 128, 128), (100, 77, 65), (512, 512, 512)):
        a, b = torch.randn(m, k).half(), torch.randn(k, n).half()
        yield "product", (a, b), ((a.float() @ b.float()).half(),), 2e-1
    for height, width in ((1, 1), (64, 280), (13, 37)):
        x = torch.randn(height, width) * 20
        yield "clamped", (x, None), (-((x.double() * 0.1).clamp(min=-1.5) + 2).float(),), 1e-5
        index = torch.randint(0, 8, (height, width), dtype=torch.int32)
        yield "counted", (index,), (torch.bincount(index.flatten(), minlength=8).int(), index), 0
    for height, width in ((16, 64), (64, 4096), (40, 272)):
        x = torch.randn(height, width).half()
        yield "tiled", (x,), (x,), 0


@pytest.mark.gpu
@pytest.mark.parametrize("options", [(), ("capture",), ("offset=4",), ("threads=4",), ("tactic=1",)])
def test_numbers_on_a_gpu(options, tmp_path, generated):
    major, minor = torch.cuda.get_device_capability()
    library = build(list(generated.instances.values()), [f"sm{major}{minor}"])
    build_runner(library, tmp_path / "runner", fake=False)
    for name, inputs, outputs, tolerance in cases():
        if name == "tiled" and "offset=4" in options:
            continue  # its pointers are divisible by 16 always
        run_op(tmp_path / "runner", generated.names[name], inputs, *options)
        for index, wanted in enumerate(outputs):
            error = (output(tmp_path / "runner", index, wanted).double() - wanted.double()).abs().max()
            assert error <= tolerance, (name, [each.shape for each in inputs if each is not None])
