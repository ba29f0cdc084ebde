"""What `import bridge` does to torch_tensorrt: each test in a process of its own."""

from importlib.util import find_spec

import pytest
from door_models import needs_torch_tensorrt
from hooked_process import run

from bridge.core.foreign import FOREIGN
from bridge.doors import torch_tensorrt_door as door
from bridge.errors import BridgeError
from bridge.tensorrt.install import flavour


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
