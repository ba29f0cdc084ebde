"""The zoo's columns at their best: variants of backends, CUDA graphs, ratios, and whose the matrix products are."""

import dataclasses

import pytest
import torch
from zoo_models import ZOO, needs_models

from bridge.bench.kernels import Kernel
from bridge.engine.timing import Timing
from bridge.zoo import backends, measure, products, run, subject, table, variants
from bridge.zoo.entries import Entry
from bridge.zoo.failures import result_or_failure
from bridge.zoo.measuring_lock import MeasuringLock

MODES = {
    "default": {"us": 30.0, "error": 1.0},
    "reduce-overhead": {"us": 10.0, "error": 2.0},
    "max-autotune": {"us": 20.0},
}


def test_the_fastest_variant_stands_for_a_backend():
    found = variants.summary(MODES)
    assert found == {"us": 10.0, "error": 2.0, "variant": "reduce-overhead", "variants": MODES}
    assert variants.best(found) == ("reduce-overhead", 10.0)
    graph = {"us": 9.0, "cuda_graph": {"us": 5.0}}
    found = variants.summary({"Python runtime": graph, "C++ runtime": {"us": 6.0}})
    assert variants.best(found) == ("Python runtime, CUDA graph", 5.0)
    assert variants.best({"us": 4.0, "cuda_graph": {"us": 5.0}}) == ("", 4.0)
    assert variants.best({"failed": "x"}) is None and variants.summary({"": graph}) == graph


def test_failures_of_variants_are_named():
    failed = {"failed": "RuntimeError: x"}
    found = variants.summary({"default": failed, "max-autotune": {"us": 1.0, "cuda_graph": {"failed": "y"}}})
    assert found["variant"] == "max-autotune" and "failed" not in found
    assert variants.failures(found) == {"default": "RuntimeError: x", "max-autotune, CUDA graph": "y"}
    none = variants.summary({"default": failed, "max-autotune": {"failed": "z"}})
    assert none["failed"] == "RuntimeError: x" and variants.best(none) is None
    assert variants.failures(none) == {"default": "RuntimeError: x", "max-autotune": "z"}
    assert variants.failures({"us": 1.0, "unfinished": "not done after 3 s"}) == {
        "further variants": "not done after 3 s"
    }


def test_what_was_measured_before_the_time_was_over_counts():
    row = {"model": "m", "ways": {"inductor": {**variants.summary({"default": MODES["default"]}), "running": True}}}
    found = run._finished_row(row, "not done after 9 s")["ways"]["inductor"]
    assert variants.best(found) == ("default", 30.0) and found["unfinished"] == "not done after 9 s"
    row = {"model": "one", "ways": {"bridge": {"us": 15.0}, "inductor": found}}
    cells = dict(zip(table.HEADER, table.cells(row), strict=True))
    assert cells["Inductor"] == "0.03, default" and cells["ratio"] == "2.00 (Inductor)"
    assert table.failure_lines({"rows": [row]}) == ["one, inductor, further variants: not done after 9 s"]


def test_backends_that_were_not_begun_were_not_done():
    row = {"model": "m", "ways": {"bridge": {"us": 1.0}, "inductor": {"running": True}}}
    found = run._finished_row(row, "not done after 9 s", ["bridge", "inductor", "torch_tensorrt"])
    cells = dict(zip(table.HEADER, table.cells(found), strict=True))
    assert (cells["bridge"], cells["Inductor"], cells["torch_tensorrt"]) == ("0.001", "not done", "not done")
    assert table.failure_lines({"rows": [found]}) == [
        "m, inductor: not done after 9 s",
        "m, torch_tensorrt: not done after 9 s",
    ]
    complete = {"model": "m", "ways": {"bridge": {"us": 1.0}}, "complete": True}
    assert list(run._finished_row(complete, None, ["eager"])["ways"]) == ["bridge"]


def test_ratios_are_against_the_fastest_other():
    def ratio(**ways):
        return dict(zip(table.HEADER, table.cells({"model": "m", "ways": ways}), strict=True))["ratio"]

    eager = {"us": 90.0, "cuda_graph": {"us": 20.0}}
    assert ratio(bridge={"us": 40.0, "cuda_graph": {"us": 25.0}}, eager=eager) == "0.80 (eager)"
    assert ratio(eager=eager) == ratio(bridge={"us": 1.0}) == ratio(bridge={"failed": "x"}, eager=eager) == ""


# Measuring


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A model file, measured as if there were a GPU, by variants that are made up; and the rows that were kept."""
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n\ndef bridge_model(argv):\n    return torch.nn.Linear(3, 2).eval(), (torch.ones(4, 3),)\n"
    )
    monkeypatch.setattr(subject.Subject, "runs", True)
    kept = []

    def measured(**made_up):
        monkeypatch.setattr(measure, "VARIANTS", made_up)
        return measure.measure(Entry(path), [], "sm86", lambda row: kept.append(table.cells(row)))["ways"], kept

    return measured


def test_variants_are_measured_in_order_and_kept_one_by_one(small):
    seen = []

    def mode(name):
        return lambda each: seen.append((name, each.runs)) or MODES[name]

    def fails(_):
        raise RuntimeError("no such mode")

    ways, kept = small(
        bridge={"": lambda _: {"us": 15.0, "plugins": {}}},
        native={"": lambda _: pytest.fail("there are no plugins")},
        inductor={"first": fails, **{name: mode(name) for name in MODES}},
    )
    assert [name for name, _ in seen] == list(MODES) and set(ways) == {"bridge", "inductor"}
    assert ways["inductor"]["variants"] == {"first": {"failed": "RuntimeError: no such mode"}, **MODES}
    inductor = [cells[table.HEADER.index("Inductor")] for cells in kept]
    assert inductor[-4:] == ["failed", "0.03, default", "0.01, reduce-overhead", "0.01, reduce-overhead"]


def test_every_backend_of_the_table_has_variants():
    assert set(backends.VARIANTS) == set(table.BACKENDS)
    assert list(backends.VARIANTS["inductor"]) == ["default", "reduce-overhead", "max-autotune"]
    assert list(backends.VARIANTS["torch_tensorrt"]) == ["Python runtime", "C++ runtime"]


def of_linear(monkeypatch, model):
    """A subject whose calls take 7 µs, and which CUDA graphs cannot hold."""
    monkeypatch.setattr(subject, "time_loop", lambda call: call() is None or Timing(7.0, 7.0, 7.0, 0.0))
    monkeypatch.setattr(subject.Subject, "captured", lambda self, function: 1 / 0)
    given = subject.Model(model, (torch.ones(4, 3),), {}, None)
    return subject.Subject(ZOO[0], given, None, None, MeasuringLock())


def test_inductor_compiles_in_each_mode(monkeypatch):
    model, modes = torch.nn.Linear(3, 2), []
    monkeypatch.setattr(torch, "compile", lambda module, mode: modes.append(mode) or module)
    monkeypatch.setattr(products, "measure", lambda call: call() is None or {"share": 0.7, "by": {}, "kernels": []})
    for mode, measured in backends.VARIANTS["inductor"].items():
        found = measured(of_linear(monkeypatch, model))
        assert modes[-1] == mode and found["us"] == 7.0 and found["error"] == 0 and found["products"]["share"] == 0.7


def test_a_graph_of_inductors_that_computes_something_else_is_a_failure(monkeypatch):
    """As of a model with a kernel on the default stream: right at first, but not in replays."""
    calls = []

    def compiled(x):
        calls.append(x)
        return model(x) if len(calls) < 3 else torch.zeros(4, 2)

    model = torch.nn.Linear(3, 2)
    monkeypatch.setattr(torch, "compile", lambda module, mode: compiled)
    found = result_or_failure(backends.VARIANTS["inductor"]["reduce-overhead"], of_linear(monkeypatch, model))
    assert found["failed"].startswith("RuntimeError: its result in a CUDA graph differs by 1")


def test_eager_is_measured_where_a_graph_cannot_hold_it(monkeypatch):
    found = backends.VARIANTS["eager"][""](of_linear(monkeypatch, torch.nn.Linear(3, 2)))
    assert found["us"] == 7.0 and found["cuda_graph"] == {"failed": "ZeroDivisionError: division by zero"}


def test_what_its_dtype_does_to_eager_is_measured(monkeypatch):
    """A sum of 2048 and 1 is 2048 in float16, and nine digits of float32 are not its own."""
    add = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(add.weight)

    def wider(dtype, *values):
        given = subject.Model(add.to(dtype), (torch.tensor([values], dtype=dtype),), {}, None)
        found = dataclasses.replace(of_linear(monkeypatch, add), model=given)
        row = backends.VARIANTS["eager"][""](found)
        assert add.weight.dtype == dtype
        return row["wider"]["error"], row

    with torch.no_grad():
        error, row = wider(torch.float16, 2048.0, 1.0)
        assert error == pytest.approx(1 / 2049) and wider(torch.float32, 2048.0, 1.0)[0] == 0
        assert wider(torch.float32, 2.0**24, 1.0)[0] == pytest.approx(2.0**-24)
    cells = dict(zip(table.HEADER, table.cells({"model": "m", "ways": {"eager": row}}), strict=True))
    assert cells["error"] == "(4.9e-04)"
    refused = {"model": "m", "ways": {"eager": {"us": 1.0, "wider": {"failed": "RuntimeError: no float64"}}}}
    assert table.failure_lines({"rows": [refused]}) == ["m, eager, wider dtype: RuntimeError: no float64"]


def test_a_profile_that_cannot_be_made_costs_nothing(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, mode: module)

    def refused(call):
        raise RuntimeError("another profiler")

    monkeypatch.setattr(products, "measure", refused)
    assert "products" not in backends.VARIANTS["inductor"]["default"](of_linear(monkeypatch, torch.nn.Linear(3, 2)))


def test_a_runtime_that_crashes_is_not_tried(monkeypatch):
    monkeypatch.setattr("bridge.tensorrt.install.version_shims.other_rtx", lambda version: "1.3.0")
    model = of_linear(monkeypatch, torch.nn.Linear(3, 2))
    found = result_or_failure(backends.VARIANTS["torch_tensorrt"]["C++ runtime"], model)
    assert found["failed"].startswith("RuntimeError: it was compiled for TensorRT-RTX 1.3.0, and crashes with ")


@needs_models
def test_torch_tensorrt_alone_has_the_shims_that_it_needs(monkeypatch):
    """Without them it cannot name the dtype of an output, whatever the model."""
    import torch_tensorrt

    from bridge.tensorrt.install.flavour import detect

    def compiled(program, **_):
        has_setter.append(detect().trt().ITensor.dtype.fset is not None)
        return program.module()

    has_setter, model = [], torch.nn.Linear(3, 2)
    monkeypatch.setattr(torch_tensorrt.dynamo, "compile", compiled)
    given = of_linear(monkeypatch, model)
    given = dataclasses.replace(given, program=torch.export.export(model, given.model.args))
    found = backends.VARIANTS["torch_tensorrt"]["Python runtime"](given)
    assert has_setter == [True] and found["us"] == 7.0


# Matrix products


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("cudnn_generated_fort_native_sm80_matMul_fprop_xmma", None),
        ("cudnn_generated_fort_native_sm80_matMul", "cuDNN"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "cuBLAS"),
        ("void gemv2T_kernel_val<int, int, __half>", "cuBLAS"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "cuBLAS"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_relu_f16>", "CUTLASS"),
        ("triton_tem_fused_addmm_3", "Triton"),
        ("triton_tem_fused_mm_0", "Triton"),
        ("triton_poi_fused_add_mul_7", None),
        ("triton_red_fused_mean_summ_1", None),
        ("__myl_MatMul_0xabc", "TensorRT"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16", None),
        ("fmha_v2_flash_attention_fp16_S_64", None),
        ("void bridge::rope_kernel<float>", None),
    ],
)
def test_kernels_of_products_by_name(name, maker):
    assert products.maker(name) == maker


def test_the_share_of_products():
    recorded = [
        Kernel("nvjet_a", None, 1, 60.0), Kernel("triton_tem_fused_mm_1", None, 1, 20.0),
        Kernel("void bridge::rope_kernel", "rope", 1, 20.0),
    ]  # fmt: skip
    found = products.of(recorded)
    assert found["share"] == pytest.approx(0.8) and found["by"] == pytest.approx({"cuBLAS": 0.6, "Triton": 0.2})
    assert found["kernels"][0] == {"name": "nvjet_a", "share": 0.6} and products.of([]) is None
    ways = {"bridge": {"us": 1.0, "products": found}, "inductor": {"us": 1.0}}
    small_share = {"bridge": {"us": 1.0, "products": {**found, "share": 0.4}}}
    result = {"rows": [{"model": "one", "ways": ways}, {"model": "two", "ways": small_share}]}
    heading, *rows = table.products(result)
    assert heading == table.PRODUCTS_HEADER
    assert rows == [("one", "80%", "cuBLAS 60%, Triton 20%", "60% nvjet_a", "", "", "")]


# On a GPU


@pytest.mark.gpu
def test_a_graph_of_eager_computes_what_it_is_given(device):
    model = torch.nn.Linear(3, 2).cuda()
    given = subject.Model(model, (torch.ones(4, 3, device="cuda"),), {}, None)
    linear = subject.Subject(ZOO[0], given, None, None, MeasuringLock())
    with torch.no_grad():
        replayed = linear.captured(model)
        assert linear.error(replayed) == 0
        other = torch.randn(4, 3, device="cuda")
        torch.testing.assert_close(replayed(other), model(other))
        found = products.measure(lambda: torch.randn(512, 512, device="cuda") @ torch.randn(512, 512, device="cuda"))
    assert found is None or found["share"] > 0
