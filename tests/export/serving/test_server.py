"""Repositories in a real Triton Inference Server, asked over HTTP and gRPC. PyTorch on the CPU stands in for the engine
of the model `everything`; `plain` is served as it is, which without a GPU is an error for each request."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy
import pytest
import torch
import triton_server
from served_models import MODELS, PLAIN, everything

from bridge.export.formats import export
from bridge.export.options import Options

pytestmark = pytest.mark.skipif(triton_server.missing() is not None, reason=str(triton_server.missing()))
EXPLICIT = ("--model-control-mode=explicit",)


@pytest.fixture(scope="module")
def clients():
    """The modules of tritonclient by protocol, which `make tritonserver` installs apart."""
    sys.path.append(str(triton_server.FOLDER / "client"))
    from tritonclient import grpc, http

    yield {"http": http, "grpc": grpc}
    sys.path.remove(str(triton_server.FOLDER / "client"))


@pytest.fixture(scope="module")
def server(everything_file, plain_file, write_model, tmp_path_factory, clients):
    """With both models loaded, `everything` with two instances."""
    repository = tmp_path_factory.mktemp("repository") / "models"
    repository.mkdir()
    options = {"instances": 2, "dynamic_batching": True, "warm_up": True}
    write_model(everything_file, repository, "everything", stand_in=True, **options)
    write_model(plain_file, repository, "plain")
    log = repository.with_name("log")
    with triton_server.serving(repository, log, *EXPLICIT, "--load-model=everything", "--load-model=plain") as running:
        yield SimpleNamespace(running=running, repository=repository, clients=clients)


def client_of(server, protocol="http"):
    """A client, for one thread."""
    address = getattr(server.running, protocol)
    patience = {"network_timeout": 60.0, "connection_timeout": 60.0} if protocol == "http" else {}
    return server.clients[protocol].InferenceServerClient(address, **patience)


def inputs_of(module, client, name, tensors, dtype=None):
    """Inputs of a request. dtype: what they say that they are, in place of what they are."""
    described = client.get_model_metadata(name)
    rows = described["inputs"] if isinstance(described, dict) else described.inputs
    given = []
    for row, tensor in zip(rows, tensors, strict=True):
        row = row if isinstance(row, dict) else {"name": row.name, "datatype": row.datatype}
        shape = list(tensor.shape) if tensor.dim() > (name == "everything") else [*tensor.shape, 1]
        value = module.InferInput(row["name"], shape, dtype or row["datatype"])
        value.set_data_from_numpy(as_numpy(tensor).reshape(shape))
        given.append(value)
    return given


def as_numpy(tensor):
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def assert_right(result, arguments):
    """The result of a request is the model's own."""
    expected = MODELS["everything"](*arguments)
    names = ("rectified", "half_output", "brain_output", "ids_output", "flags_output")
    leaves = [expected[name] for name in ("rectified", "half", "brain", "ids", "flags")]
    for name, leaf in zip((*names, "nested_0", "nested_1"), (*leaves, *expected["nested"]), strict=True):
        shape = leaf.shape if leaf.dim() > 1 else (*leaf.shape, 1)
        numpy.testing.assert_array_equal(result.as_numpy(name), as_numpy(leaf).reshape(shape))
    numpy.testing.assert_array_equal(result.as_numpy("threshold"), [[0.5]] * len(arguments[0]))


def test_metadata_is_what_the_manifest_says(server):
    client = client_of(server)
    manifest = json.loads((server.repository / "everything/1/manifest.json").read_text())
    names = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int64": "INT64", "int32": "INT32"}
    names["bool"] = "BOOL"
    metadata = client.get_model_metadata("everything")
    for kind in ("inputs", "outputs"):
        expected = [(row["name"], names[row["dtype"]]) for row in manifest[kind]]
        assert [(row["name"], row["datatype"]) for row in metadata[kind]][: len(expected)] == expected
    assert [row["shape"] for row in metadata["inputs"]] == [[-1, -1], *[[-1, 2]] * 2, [-1, 1], [-1, 2], [-1, 3]]
    config = client.get_model_config("everything")
    assert config["max_batch_size"] == manifest["inputs"][0]["max"][0]
    assert config["dynamic_batching"]["preferred_batch_size"] == [8]  # the server's own choice


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_results_of_every_data_type(server, protocol):
    module, client = server.clients[protocol], client_of(server, protocol)
    for seed, (rows, length) in enumerate([(1, 1), (3, 5), (8, 2)]):
        arguments = everything(rows, length, seed)
        assert_right(client.infer("everything", inputs_of(module, client, "everything", arguments)), arguments)


def test_concurrent_clients_get_their_own_results_and_errors(server):
    """Of 16 clients a quarter asks for more columns than the profile has; no other request is touched."""
    module, errors, rights = server.clients["http"], [], []

    def ask(number):
        client = client_of(server)
        for turn in range(4):
            wrong = number % 4 == 0
            arguments = everything(1 + number % 3, 6 if wrong else 1 + number % 5, seed=number * 10 + turn)
            inputs = inputs_of(module, client, "everything", arguments)
            try:
                assert_right(client.infer("everything", inputs), arguments)
                rights.append(number)
            except module.InferenceServerException as error:
                errors.append((number, str(error)))
        client.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert len(rights) == 48 and len(errors) == 16
    assert {number % 4 for number, _ in errors} == {0}
    assert {error.partition("x has shape")[2][:6] for _, error in errors} == {" (1, 6", " (2, 6", " (3, 6"}


def test_requests_ran_together(server):
    statistics = client_of(server).get_inference_statistics("everything")["model_stats"][0]
    assert statistics["inference_count"] > statistics["execution_count"] > 0


def test_wrong_data_types_and_shapes(server):
    module, client = server.clients["http"], client_of(server)
    arguments = everything()
    wrong_dtype = inputs_of(module, client, "everything", arguments)
    wrong_dtype[0] = module.InferInput("x", [2, 3], "FP64")
    wrong_dtype[0].set_data_from_numpy(arguments[0].double().numpy())
    with pytest.raises(module.InferenceServerException, match=r"'x' data-type is 'FP64', .* expects 'FP32'"):
        client.infer("everything", wrong_dtype)
    with pytest.raises(module.InferenceServerException, match=r"input x has shape \(2, 6\): dimension 1 is 6"):
        client.infer("everything", inputs_of(module, client, "everything", everything(length=6)))
    with pytest.raises(module.InferenceServerException, match="batch-size must be <= 8"):
        client.infer("everything", inputs_of(module, client, "everything", everything(rows=9)))
    with pytest.raises(module.InferenceServerException, match="expected 6 inputs but got 5"):
        client.infer("everything", inputs_of(module, client, "everything", arguments)[:5])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_without_a_gpu_a_request_is_told_so(server, protocol):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    module, client = server.clients[protocol], client_of(server, protocol)
    with pytest.raises(module.InferenceServerException, match=r"this instance is on a CPU, .* serve it as KIND_GPU"):
        client.infer("plain", inputs_of(module, client, "plain", PLAIN))


def test_a_server_without_a_gpu_does_not_load_what_needs_one(server, plain_file, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    export(plain_file, tmp_path / "models", "triton", options=Options("needs_gpu"))
    (tmp_path / "models/needs_gpu").rename(server.repository / "needs_gpu")
    with pytest.raises(server.clients["http"].InferenceServerException, match="KIND_GPU but no GPUs are available"):
        client_of(server).load_model("needs_gpu")


def test_unload_damage_and_reload(server):
    """A damaged engine keeps the model from loading, and the message has the reason; a right one loads again."""
    module, client = server.clients["http"], client_of(server)
    engine = server.repository / "plain/1/model.engine"
    content = engine.read_bytes()
    client.unload_model("plain")
    engine.write_bytes(content[:-100])
    with pytest.raises(module.InferenceServerException, match=r"model.engine: truncated or damaged: expected"):
        client.load_model("plain")
    assert not client.is_model_ready("plain") and client.is_model_ready("everything")
    engine.write_bytes(content)
    client.load_model("plain")
    assert client.is_model_ready("plain")


def test_a_library_that_is_not_there(server, make_engine_file, write_model):
    module, client = server.clients["http"], client_of(server)
    model = write_model(make_engine_file(plugins={}, output_map=[0]), server.repository, "foreign")
    make_engine_file(plugins={"acme::corr": "1"}, output_map=[0]).save(model / "1/model.engine")
    with pytest.raises(module.InferenceServerException, match=r"needs the plugin acme::corr, but there is no library"):
        client.load_model("foreign")


def test_a_server_that_is_killed_while_it_loads_starts_again(plain_file, write_model, tmp_path, clients):
    repository = tmp_path / "models"
    repository.mkdir()
    write_model(plain_file, repository, "plain")
    killed = triton_server.start(repository, tmp_path / "first")
    try:
        deadline = time.monotonic() + triton_server.READY
        while "loading: plain:1" not in killed.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not killed.is_live()
    finally:
        killed.stop(signal.SIGKILL)
    with (
        triton_server.serving(repository, tmp_path / "second") as running,
        contextlib.closing(clients["http"].InferenceServerClient(running.http)) as client,
    ):
        assert client.is_model_ready("plain")
    assert [thread for thread in threading.enumerate() if "triton" in thread.name] == []
    with pytest.raises(ProcessLookupError):
        os.killpg(running.process.pid, 0)
