"""Fresh processes that note what bridge logs, and what it changes in torch, torch_tensorrt and TensorRT."""

import json
import textwrap

import fresh_process

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
    done = fresh_process.run(PRELUDE + textwrap.dedent(code), *args, imported=fresh_process.COMPILER)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
