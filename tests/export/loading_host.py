"""A host of plugins without bridge and without torch: does steps in one process, and prints what the registry then has.

python loading_host.py RUNTIME STEP...     RUNTIME as registry_probe.py takes it

    load:FILE       dlopen, as LD_PRELOAD and servers do       tensorrt       load the runtime
    library:FILE    IPluginRegistry::loadLibrary               creators       print the creators, as JSON
"""

import ctypes
import json
import sys

from registry_probe import runtime


def main() -> None:
    trt, logger, lines = None, None, []
    for step in sys.argv[2:]:
        what, _, path = step.partition(":")
        if what == "load":
            ctypes.CDLL(path)
        elif what == "tensorrt":
            trt = runtime(sys.argv[1])
            logger = trt.Logger(trt.Logger.ERROR)  # kept alive: the registry logs to it
        elif what == "library":
            lines.append(trt.get_plugin_registry().load_library(path) is not None)
        else:
            creators = [(c.plugin_namespace, c.name) for c in trt.get_plugin_registry().all_creators]
            lines.append(sorted(name for space, name in creators if space == "bridge"))
    foreign = {"torch", "bridge"} & sys.modules.keys()
    assert not foreign, f"{foreign} are loaded"
    print(json.dumps(lines))
    del logger


if __name__ == "__main__":
    main()
