"""What `import bridge` does to torch_tensorrt, and what `unregister` undoes: each test in a process of its own."""

import json
import textwrap
from importlib.util import find_spec

import fresh_process
import pytest

from bridge.core.foreign import FOREIGN
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import BridgeError
from bridge.tensorrt.install import flavour

needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch_tensorrt")


PRELUDE = """
import json, logging, sys
records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger("bridge").addHandler(handler)

def state():
    # Every function and class in torch's, torch_tensorrt's and TensorRT's modules and classes, and what it stands for.
    import torch_tensorrt
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS
    foreign = lambda name: str(name).split(".")[0] in ("torch", "torch_tensorrt", "tensorrt", "tensorrt_rtx")
    owners = {name: module for name, module in list(sys.modules.items()) if foreign(name) and module is not None}
    classes = [value for module in owners.values() for value in vars(module).values() if isinstance(value, type)]
    owners |= {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes if foreign(cls.__module__)}
    names = {(name, key): value for name, owner in owners.items() for key, value in list(vars(owner).items())
             if callable(value) or isinstance(value, (staticmethod, classmethod, property))}
    table = {target: list(entries) for target, entries in DYNAMO_ATEN_CONVERTERS.items()}
    return names, table

def different(before, after):
    # The names that stand for something else, and those of bridge's that are new.
    new = {key for key, value in after.items() if key not in before
           and str(getattr(getattr(value, "fget", value), "__module__", "")).startswith("bridge")}
    return sorted(new | {key for key, value in before.items() if after.get(key) is not value})
"""


def run(code, *args):
    """Runs code after PRELUDE in another process; the last line that it prints is JSON."""
    done = fresh_process.run(PRELUDE + textwrap.dedent(code), *args)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_torch_tensorrt
def test_import_bridge_imports_no_torch_tensorrt_and_hooks_later_imports():
    code = """
    import bridge
    from bridge.doors import torch_tensorrt_door as door
    door.register(), door.register()
    light = not [name for name in sys.modules if name.startswith(("tensorrt", "torch_tensorrt"))]
    import torch_tensorrt
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    import torch
    known = torch.ops.bridge.relu.default in DYNAMO_CONVERTERS
    loader = type(torch_tensorrt.__spec__.loader).__module__
    print(json.dumps([light, known, loader, type(torch_tensorrt.__loader__).__module__, len(records)]))
    """
    assert run(code) == [True, True, *["_frozen_importlib_external"] * 2, 0]


@needs_torch_tensorrt
def test_torch_tensorrt_may_be_imported_first():
    code = """
    from bridge.tensorrt.install import flavour
    from bridge.doors import torch_tensorrt_door as door
    door.unregister()  # as it is before bridge is imported
    import torch
    torch_tensorrt = flavour.detect().torch_tensorrt()
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    before = torch.ops.bridge.relu.default in DYNAMO_CONVERTERS
    door.register()
    print(json.dumps([before, torch.ops.bridge.relu.default in DYNAMO_CONVERTERS, len(records)]))
    """
    assert run(code) == [False, True, 0]


@needs_torch_tensorrt
@pytest.mark.parametrize("first", ["bridge", "torch_tensorrt"])
def test_a_cpp_runtime_that_is_chosen_at_import_is_one_for_this_rtx(first):
    code = """
    import bridge, torch
    from bridge.tensorrt.install import flavour, version_shims as shims
    from bridge.doors import torch_tensorrt_door as door
    here = flavour.detect()
    other = shims.other_rtx(here.version) if here.name == "tensorrt_rtx" else None
    if sys.argv[1] == "torch_tensorrt":
        door.unregister()
        shims.SHIMS = tuple(shim for shim in shims.SHIMS if shim.apply is not shims.hide_cpp_runtime)
    torch_tensorrt = here.torch_tensorrt()
    door.register()
    chosen = not hasattr(torch_tensorrt.dynamo.runtime, "PythonTorchTensorRTModule")
    cpp = torch_tensorrt.ENABLED_FEATURES.torch_tensorrt_runtime
    messages = [record.getMessage() for record in records]
    print(json.dumps([chosen and other is not None, cpp, messages]))
    """
    mismatch, cpp, messages = run(code, first)
    if not mismatch:
        assert messages == []
    elif first == "bridge":
        assert not cpp and messages == []
    else:
        assert cpp and len(messages) == 1 and "import bridge before torch_tensorrt" in messages[0]


@needs_torch_tensorrt
def test_unregister_puts_back_tensorrt_itself():
    """TensorRT-RTX 1.7 lacks a class that torch_tensorrt names, and a setter that it calls."""
    code = """
    from bridge.tensorrt.install import flavour, version_shims
    from bridge.doors import torch_tensorrt_door as door
    found = flavour.detect()
    trt = found.trt()
    setter = lambda: trt.ITensor.dtype.fset is not None
    before = hasattr(trt, "IAlgorithmSelector"), setter()
    found.torch_tensorrt()
    rows = version_shims.shims_for(found.name, flavour.release(found.torch_tensorrt_version))
    needed = version_shims.add_dtype_setter in [shim.apply for shim in rows]
    registered = setter()
    door.unregister()
    print(json.dumps([registered or not needed, before == (hasattr(trt, "IAlgorithmSelector"), setter())]))
    """
    assert run(code) == [True, True]


@needs_torch_tensorrt
def test_unregister_puts_back_everything_and_register_comes_again():
    code = """
    import torch, bridge
    from bridge.doors import torch_tensorrt_door as door
    from bridge.tensorrt.install import flavour
    from test_torch_tensorrt import Leaky, hash_of
    door.unregister()
    torch_tensorrt = flavour.detect().torch_tensorrt()
    torch.compile(torch.nn.Identity(), backend="eager")  # torch changes itself at the first
    names, table = state()
    hashes = [hash_of(torch_tensorrt, Leaky(slope)) for slope in (0.1, 0.2)]

    def compile():
        x = torch.randn(2, 3)
        context = door.cross_compile("sm86")
        with context as engines:
            torch_tensorrt.compile(Leaky().eval(), ir="dynamo", arg_inputs=[x], min_block_size=1)
        return [len(door.layers_of(engine)) for engine in engines]

    door.register()
    first = compile()
    bridge.compile(Leaky().eval(), (torch.randn(2, 3),), target="sm86")
    torch.compile(Leaky(), backend="bridge")
    while_registered = {owner for owner, _ in different(names, state()[0])}
    door.unregister(), door.unregister()
    names_after, table_after = state()
    changed = different(names, names_after)
    try:
        compile()
    except bridge.BridgeError as error:
        refused = str(error)
    node = torch.export.export(Leaky().eval(), (torch.randn(2, 3),)).graph.find_nodes(
        op="call_function", target=torch.ops.bridge.relu.default)[0]
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    left = node not in DYNAMO_CONVERTERS
    hooked = [finder for finder in sys.meta_path if type(finder).__module__.startswith("bridge")]
    door.register()
    again = compile() == first
    same_hash, same_table = hashes[0] == hashes[1], table_after == table
    print(json.dumps([same_hash, len(while_registered), changed, same_table, refused, left, hooked, again]))
    """
    same_hash, while_registered, changed, same_table, refused, left, hooked, again = run(code)
    assert same_hash, "torch_tensorrt tells attributes apart by itself now: bridge need not"
    assert while_registered > 5 and same_table and left and hooked == [] and again
    # docs/architecture.md says why this one stays: torch.compile(backend="bridge") does, too.
    assert changed == [["torch._dynamo.repro.after_dynamo.WrapBackendDebug", "backend_ctx_ctor"]]
    assert "call bridge.register()" in refused


@needs_torch_tensorrt
def test_models_without_bridges_ops_are_converted_as_without_bridge():
    code = """
    import torch
    from torch import nn
    from bridge.tensorrt.install import flavour, gpu; from bridge.tensorrt.network import inventory
    from bridge.doors import pipeline
    from bridge.doors import torch_tensorrt_door as door
    door.unregister()
    torch_tensorrt = flavour.detect().torch_tensorrt()

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x):
            x = torch.nn.functional.leaky_relu(self.conv(x), 0.2).mean((2, 3))
            return torch.where(x > 0, x, -x) @ self.head.weight.T

    def layers():
        from torch_tensorrt.dynamo.conversion import TRTInterpreter, DYNAMO_CONVERTERS
        from torch_tensorrt.dynamo.lowering import get_decompositions, post_lowering
        torch.manual_seed(0)
        with gpu.without_gpu():
            settings = pipeline._conversion_settings()
            program = torch.export.export(Plain().eval(), (torch.randn(2, 3, 8, 8),))
            module = post_lowering(program.run_decompositions(get_decompositions()).module(), settings)
            interpreter = TRTInterpreter(module, [torch_tensorrt.Input((2, 3, 8, 8))], compilation_settings=settings)
            interpreter._construct_trt_network_def()
            network = interpreter.ctx.net
            names = [network.get_layer(index).name for index in range(network.num_layers)]
            return type(interpreter).__name__, names, inventory.layers(network, {})

    without, *before = layers()
    door.register()
    within, *after = layers()
    print(json.dumps([without, within, before == after, len(after[0])]))
    """
    without, within, equal, count = run(code)
    assert (without, within, equal) == ("TRTInterpreter", "BridgeInterpreter", True) and count > 5


@needs_torch_tensorrt
def test_bridges_own_conversion_leaves_torch_tensorrt_as_it_was():
    code = """
    import torch
    from bridge.tensorrt.network import op_converter as converters; from bridge.core import libraries as native
    from bridge.doors import torch_tensorrt_door as door
    from bridge.tensorrt.install import flavour, version_shims as shims
    from bridge.tensorrt.converters.attention import SDPA
    found = flavour.detect()
    rows = shims.shims_for(found.name, flavour.release(found.torch_tensorrt_version))
    needed = shims.keep_dtypes_in_where in [shim.apply for shim in rows]
    found.torch_tensorrt()
    door.register()
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    from torch_tensorrt.dynamo.conversion.impl.condition import ops
    before, settings = state(), DYNAMO_CONVERTERS.compilation_settings
    theirs = ops.promote_trt_tensors_to_same_dtype
    with converters.own_conversion(found), converters.own_conversion(found):
        DYNAMO_CONVERTERS.set_compilation_settings(object.__new__(type("Settings", (), {"torch_executed_ops": set()})))
        inside = DYNAMO_CONVERTERS.get_unvalidated(SDPA)[0].__module__
        shimmed = (ops.promote_trt_tensors_to_same_dtype is not theirs) == needed
    restored = state() == before and DYNAMO_CONVERTERS.compilation_settings is settings
    outside = DYNAMO_CONVERTERS.get_unvalidated(SDPA)[0].__module__
    print(json.dumps([inside, shimmed, restored, outside.split(".")[0]]))
    """
    assert run(code) == ["bridge.tensorrt.converters.attention", True, True, "torch_tensorrt"]


def test_without_torch_tensorrt_nothing_happens():
    code = """
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name == "torch_tensorrt":
                raise ModuleNotFoundError("hidden", name=name)

    import bridge
    from bridge.doors import torch_tensorrt_door as door
    door.register()
    sys.meta_path.insert(1, Hidden())
    try:
        import torch_tensorrt
    except ModuleNotFoundError as error:
        message = str(error)
    print(json.dumps([message, len(records)]))
    """
    assert run(code) == ["hidden", 0]


@pytest.mark.parametrize("broken", ["flavour", "torch_tensorrt"])
def test_what_bridge_does_not_support_is_left_alone_with_a_warning(tmp_path, broken):
    (tmp_path / "torch_tensorrt").mkdir()
    (tmp_path / "torch_tensorrt" / "__init__.py").write_text("answer = 42")
    code = """
    sys.path.insert(0, sys.argv[1])
    import bridge
    from bridge.doors import torch_tensorrt_door as door
    from bridge.tensorrt.install import flavour
    if sys.argv[2] == "flavour":
        flavour._version = {"tensorrt-rtx": "1.6.0", "torch-tensorrt-rtx": "2.11.0"}.get
    elif not flavour.installed():
        flavour._version = {"tensorrt-rtx": "1.7.1", "torch-tensorrt-rtx": "2.14.0"}.get
    door.register()
    import torch_tensorrt
    print(json.dumps([torch_tensorrt.answer, *[(record.levelname, record.getMessage()) for record in records]]))
    """
    answer, (level, message) = run(code, tmp_path, broken)
    assert (answer, level) == (42, "WARNING") and "will not convert bridge's ops" in message
    assert broken != "flavour" or "tensorrt_rtx 1.6.0 is too old" in message


def test_cross_compile_needs_bridge_registered(monkeypatch):
    if find_spec("torch_tensorrt"):
        flavour.detect().torch_tensorrt()  # whose import registers bridge
        monkeypatch.setattr(door, "_changes", None)
        with pytest.raises(BridgeError, match=r"call bridge\.register\(\)"), door.cross_compile("sm86"):
            pass


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
def test_foreign_operators_wait_for_their_library():
    code = """
    import json
    import bridge
    from bridge.core import foreign
    before = len(foreign.targets())
    import torchvision
    print(json.dumps(len(foreign.targets()) - before))
    """
    assert run(code) == len(FOREIGN)
