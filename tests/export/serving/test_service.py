"""How requests are answered: joined, split, each with its own error. PyTorch on the CPU stands in for the engine."""

import json
import re

import pytest
import torch
from served_models import MODELS, ROWS, everything
from stand_in import OnCpu

from bridge.errors import EngineError, EngineFileError, EngineInputError
from bridge.export.triton import batches, service
from bridge.export.triton.config import ENGINE
from bridge.export.triton.service import Service
from bridge.generate.folders import PATH_VARIABLE


def config_of(file, rows=ROWS):
    """What the server tells an instance, as JSON."""
    types = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int64": "INT64", "bool": "BOOL"}
    types["int32"] = "INT32"
    outputs = {spec.name: f"TYPE_{types[spec.dtype]}" for spec in file.outputs}
    if file.metadata["model"] == "Everything":
        outputs["threshold"] = "TYPE_FP64"
    return {
        "max_batch_size": rows,
        "input": [{"name": spec.name, "data_type": f"TYPE_{types[spec.dtype]}"} for spec in file.inputs],
        "output": [{"name": name, "data_type": dtype} for name, dtype in outputs.items()],
    }


@pytest.fixture
def folder(everything_file, tmp_path):
    everything_file.save(tmp_path / ENGINE)
    return tmp_path


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(service, "runner_for", lambda file, gpu: OnCpu(file))


@pytest.fixture
def served(folder, on_cpu, everything_file):
    return Service(folder, None, config_of(everything_file))


def assert_answer(served, answer, arguments):
    """The answer is the model's own, with the number that its result holds in each row."""
    assert isinstance(answer, list), answer
    expected = torch.utils._pytree.tree_leaves(MODELS["everything"](*arguments))[:7]
    expected.append(torch.full((len(arguments[0]), 1), 0.5, dtype=torch.float64))
    assert [tensor.name for tensor in served.outputs][-1] == "threshold"
    for value, reference in zip(answer, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=0)


def test_compile_says_which_extents_are_equal(everything_file, plain_file):
    batch = everything_file.metadata["extents"]["ids"][0]
    assert everything_file.metadata["extents"]["rectified"][0] == batch
    assert batches.refusal(everything_file) is None
    assert "the first dimension of scale is no extent" in batches.refusal(plain_file)


def test_requests_of_one_shape_run_together(served):
    lengths = [3, 3, 2, 3, 2]
    arguments = [everything(rows=1 + seed % 3, length=length, seed=seed) for seed, length in enumerate(lengths)]
    answers = served.answer(arguments)
    for answer, given in zip(answers, arguments, strict=True):
        assert_answer(served, answer, given)
    assert sorted(served._runner.runs) == [2, 3]


def test_no_run_has_more_rows_than_the_profile(served):
    arguments = [everything(rows=rows, seed=rows) for rows in (5, 3, 4, 8, 1)]
    for answer, given in zip(served.answer(arguments), arguments, strict=True):
        assert_answer(served, answer, given)
    assert served._runner.runs == [2, 1, 1, 1]


def test_numbers_of_rows_that_recur():
    assert [batches.padded(rows, 40) for rows in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 24, 25, 33, 40)] == [
        *(0, 1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16, 24, 24, 32, 40, 40)
    ]


def test_joined_rows_are_padded_where_they_are_independent(folder, on_cpu, everything_file):
    served = Service(folder, None, config_of(everything_file) | {"dynamic_batching": {}})
    for rows in ((5,), (4, 3), (6,), (2, 3, 2, 1)):
        arguments = [everything(rows=count, seed=count) for count in rows]
        for answer, given in zip(served.answer(arguments), arguments, strict=True):
            assert_answer(served, answer, given)
    assert served._runner.rows == [6, 8, 6, 8]


def test_rows_that_may_depend_on_each_other_are_not_padded(served):
    given = everything(rows=5)
    assert_answer(served, served.answer([given])[0], given)
    assert served._runner.rows == [5]


def test_each_request_has_its_own_error(served):
    right, wide, wrong, many = everything(), everything(length=6), everything(), everything(rows=9)
    wrong = (wrong[0].double(), *wrong[1:])
    answers = served.answer([wide, right, wrong, many, right])
    assert_answer(served, answers[1], right)
    assert_answer(served, answers[4], right)
    messages = {index: str(answers[index]) for index in (0, 2, 3)}
    assert all(isinstance(answers[index], EngineInputError) for index in messages)
    assert "input x has shape (2, 6): dimension 1 is 6, and the engine takes 1 to 5" in messages[0]
    assert "input x has dtype float64; the engine takes float32" in messages[2]
    assert "dimension 0 is 9, and the engine takes 1 to 8" in messages[3]


def test_a_run_that_fails_is_an_error_of_its_requests_alone(served):
    run = served._runner

    def fail(columns, rows):
        if columns[0][0].shape[1] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(columns, rows)

    served._runner = fail
    answers = served.answer([everything(length=2), everything(length=3), everything(length=2)])
    assert_answer(served, answers[1], everything(length=3))
    assert [str(answers[index]) for index in (0, 2)] == ["the engine failed: CUDA out of memory"] * 2


def test_an_engine_without_rows_takes_requests_one_by_one(plain_file, on_cpu, tmp_path):
    plain_file.save(tmp_path / ENGINE)
    plain = Service(tmp_path, None, config_of(plain_file, 0))
    arguments = [(torch.tensor(float(value)), torch.ones(2, 3)) for value in range(3)]
    for value, (product, following) in enumerate(plain.answer(arguments)):
        assert (product == value).all() and following == value + 1
    assert plain._runner.runs == [1, 1, 1]


def test_an_instance_on_a_cpu_checks_requests_and_says_that_it_has_no_gpu(folder, everything_file):
    on_cpu = Service(folder, None, config_of(everything_file))
    right, wrong = on_cpu.answer([everything(), everything(length=6)])
    assert isinstance(right, EngineError) and "an engine runs on a GPU: serve it as KIND_GPU" in str(right)
    assert isinstance(wrong, EngineInputError)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config["input"][0].update(data_type="TYPE_FP16"), "config.pbtxt has the inputs {'x': 'TYPE_FP"),
        (lambda config: config["output"].pop(), "config.pbtxt has the outputs .*: export the engine again"),
        (lambda config: config.update(max_batch_size=9), "max_batch_size 9; the engine takes at most 8 rows"),
    ],
)
def test_a_configuration_of_another_engine(folder, everything_file, change, reason):
    config = json.loads(json.dumps(config_of(everything_file)))
    change(config)
    with pytest.raises(EngineError, match=reason):
        Service(folder, None, config)


def test_rows_where_the_engine_has_none(plain_file, tmp_path):
    plain_file.save(tmp_path / ENGINE)
    with pytest.raises(EngineError, match="max_batch_size 4, but the first dimension of scale is no extent"):
        Service(tmp_path, None, config_of(plain_file, 4))


def test_engine_files_that_cannot_be_served(folder, everything_file, make_engine_file, tmp_path):
    path = folder / ENGINE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineFileError, match=re.escape(f"{path}: truncated or damaged")):
        Service(folder, None, config_of(everything_file))
    make_engine_file(plugins={"acme::corr": "1"}).save(path)
    with pytest.raises(EngineError, match="the engine needs the plugin acme::corr, but there is no library acme"):
        Service(folder, None, config_of(everything_file))


def test_libraries_of_generated_plugins_in_the_repository_come_first(folder, everything_file, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, "/elsewhere")
    (folder / service.GENERATED).mkdir()
    for _ in range(2):
        Service(folder, None, config_of(everything_file))
    assert service.os.environ[PATH_VARIABLE] == f"{folder / service.GENERATED}:/elsewhere"
