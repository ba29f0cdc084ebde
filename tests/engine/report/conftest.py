"""Engine files for pages: one with all that a page shows, one whose names attack it, ones of many layers."""

import pytest
from generated_row import GENERATED

HOSTILE = (
    "</script></title></style><img src=x onerror=\"document.title='owned'\"><svg onload=alert(1)>'\"`${alert(1)}&lt;"
)


def tensor(name, shape=(2, 3), dtype="float16"):
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def layer(name, inputs=(), kind="ELEMENTWISE", op=None, outputs=None):
    outputs = [tensor(f"{name} out")] if outputs is None else outputs
    return {"name": name, "type": kind, "op": op, "attributes": {}, "inputs": list(inputs), "outputs": outputs}


def described(text):
    """The metadata of an engine, with a text wherever one may stand."""
    return {
        "model": text,
        "parameters": 1234567,
        "build_seconds": 1.5,
        "bridge": "0.1.0",
        "nodes": [{"name": f"node {text}", "op": "acme.norm", "module": f"body {text}", "layers": ["relu_1"]}],
        "lowerings": [
            {
                "node": f"node {text}",
                "op": "relu",
                "kind": f"relu(x) {text}",
                "lowering": "plugin",
                "why": f"faster {text}",
            }
        ],
        "passes": [
            {"pass": "rope", "replaced": True, "what": f"found {text}", "line": f"net.py:7 {text}", "module": "a.b"},
            {"pass": "relu", "replaced": False, "what": f"no clamp {text}", "line": "net.py:9", "module": "c"},
        ],
        "generated": [GENERATED | {"kernels": [GENERATED["kernels"][0] | {"file": f"n.py {text}"}]}],
        "libraries": [
            {"namespace": "acme", "file": f"libacme.so {text}", "sha256": "0" * 64, "origin": "acme-ops 1.2"}
        ],
    }


@pytest.fixture
def told(make_engine_file):
    """An engine file with everything that a page shows."""
    return make_engine_file(metadata=described("Größe"))


@pytest.fixture
def hostile(make_engine_file):
    """The same, with names that would run if the page took them for HTML, and with controls of terminals."""
    attack = layer(f"attack {HOSTILE}", ["relu_1_out"], kind=HOSTILE[:200], outputs=[tensor(f"t {HOSTILE}")])
    attack["attributes"] = {HOSTILE: HOSTILE}
    last = layer("last\x1b[2J\u202e", [f"t {HOSTILE}"], outputs=[tensor("y", dtype=HOSTILE)])
    relu = make_engine_file().layers[0]
    return make_engine_file(layers=[relu, attack, last], metadata=described(HOSTILE), target=HOSTILE)


@pytest.fixture(scope="session")
def blocks(make_engine_file):
    """Engine files of so many blocks of five layers: a weight, a plugin, a residual line."""

    def make(count):
        layers, last = [], "x"
        for index in range(count):
            name = f"layers.{index}"
            layers += [
                layer(f"{name}/weight", kind="CONSTANT"),
                layer(f"{name}/matmul", [last, f"{name}/weight out"], "MATRIX_MULTIPLY"),
                layer(f"{name}/relu", [f"{name}/matmul out"], "PLUGIN_V3", op="relu"),
                layer(f"{name}/norm", [f"{name}/relu out"], "NORMALIZATION"),
                layer(f"{name}/add", [f"{name}/norm out", last]),
            ]
            last = f"{name}/add out"
        layers[-1]["outputs"] = [tensor("y")]
        return make_engine_file(layers=layers, metadata={"model": "Blocks"})

    return make
