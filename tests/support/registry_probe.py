"""Loads a plugin library into the registry of one TensorRT runtime and prints what it then holds, as JSON.

python registry_probe.py tensorrt_rtx|FOLDER LIBRARY...   FOLDER holds an unpacked lean runtime.
"""

import ctypes
import json
import sys
from pathlib import Path


def runtime(where: str):
    if where == "tensorrt_rtx":
        import tensorrt_rtx

        return tensorrt_rtx
    sys.path.insert(0, where)
    for library in sorted(Path(where, "tensorrt_lean_libs").glob("*.so*")):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    import tensorrt_lean_bindings

    return tensorrt_lean_bindings


def main() -> None:
    trt = runtime(sys.argv[1])
    logger = trt.Logger(trt.Logger.ERROR)  # kept alive: the registry logs to it
    registry = trt.get_plugin_registry()
    steps = []
    for library in sys.argv[2:]:
        registry.load_library(library)
        creators = [c for c in registry.all_creators if c.plugin_namespace == "bridge"]
        steps.append({c.name: [c.plugin_version, [field.name for field in c.field_names]] for c in creators})
        assert len(creators) == len(steps[-1]), "a plugin is registered twice"
    creator = registry.get_creator("relu", "1", "bridge")
    print(json.dumps({"steps": steps, "creator": type(creator).__name__}))
    del logger


if __name__ == "__main__":
    main()
