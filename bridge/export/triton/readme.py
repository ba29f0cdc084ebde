"""README.md of a model repository: how to start the server, and how to ask it."""

import re

from bridge.base.text import markdown_table, printable
from bridge.engine_file.contents import EngineFile
from bridge.export.libraries import FOLDER
from bridge.export.native import AUTOLOAD
from bridge.export.options import Options
from bridge.export.triton import batches
from bridge.export.triton.config import by_bridge, inputs, outputs

_PACKAGE = re.compile(r"[\w.-]+ \d\S*")  # with its version
VERSION = "1"
"""The folder of the model's version."""

_PAGE = """\
# {name}

A model repository of Triton Inference Server with one model, `{name}`: {model}, compiled by bridge {bridge} with
{flavour} {version} for {target}. It holds code: start it only if you trust whoever wrote it.

{tensors}

{batching}

## Start

{start}

## Ask

```bash
curl --fail localhost:8000/v2/models/{name}/ready
curl --fail localhost:8000/v2/models/{name}         # names, data types, shapes
```

`{folder}/manifest.json` says how the outputs make up the model's result. A request that the engine does not take is
answered with an error that names the input; other requests are not touched.
"""

_START_PLAN = """\
The server's TensorRT must be {version}, the GPU one of compute capability {target}. In the folder of this README:

```bash
tritonserver --model-repository="$PWD" --disable-auto-complete-config{plugins}
```
"""

_PLUGINS = ' --backend-config="tensorrt,plugins=$PWD/{path}"'
_EMBEDDED = " --backend-config=tensorrt,version-compatible=true"

_START_BRIDGE = """\
Triton has no backend for TensorRT-RTX. In its Python backend `model.py` runs bridge, on the GPU of each instance. That
takes a virtual environment, made with the version of Python that the backend was built for, and in it

    {packages}

In the folder of this README:

```bash
PATH="ENVIRONMENT/bin:$PATH" tritonserver --model-repository="$PWD" --disable-auto-complete-config
```

The backend takes the first `python3` on PATH, and ignores PYTHONPATH. Or name the environment in `config.pbtxt`:

```text
parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "ENVIRONMENT" }} }}
```

On a machine without a GPU, write `KIND_CPU` for `KIND_GPU` there: the model loads, checks requests, and answers those
that are right with an error that says so.
"""

_DYNAMIC = """\
The server joins the rows of requests that wait, up to {largest}. With `max_queue_delay_microseconds` under
`dynamic_batching` in `config.pbtxt` it waits for more."""
_ROWS = """\
A request has at most {largest} rows. The server runs requests one by one. `bridge export --dynamic-batching` lets it
join the rows of several. Do that only if no row's result depends on another row."""
_NO_ROWS = "The server runs requests one by one: {reason}."


def text(file: EngineFile, options: Options) -> str:
    """The page."""
    return _PAGE.format(
        name=options.name,
        folder=f"{options.name}/{VERSION}",
        model=printable(str(file.metadata.get("model"))),
        bridge=file.metadata.get("bridge"),
        flavour=file.flavour,
        version=file.tensorrt_version,
        target=file.target,
        tensors=_table(file),
        batching=_batching(file, options),
        start=_start(file, options),
    )


def _table(file: EngineFile) -> str:
    rows = []
    for spec, tensor in zip(file.inputs, inputs(file), strict=True):
        extents = [str(low) if low == high else f"{low}…{high}" for low, high in zip(spec.min, spec.max, strict=True)]
        rows.append((f"input `{tensor.name}`", tensor.dtype, f"[{', '.join(extents)}]"))
    rows += [(f"output `{tensor.name}`", tensor.dtype, str(list(tensor.shape))) for tensor in outputs(file)]
    return markdown_table(("tensor", "data type", "shape"), rows)


def _batching(file: EngineFile, options: Options) -> str:
    if reason := batches.refusal(file):
        return _NO_ROWS.format(reason=reason)
    return (_DYNAMIC if options.dynamic_batching else _ROWS).format(largest=batches.largest(file))


def _start(file: EngineFile, options: Options) -> str:
    if by_bridge(file):
        return _START_BRIDGE.format(packages="pip install " + " ".join(_packages(file)))
    plugins = ""
    if file.embeds_libraries:
        plugins = _EMBEDDED
    elif file.plugins:
        plugins = _PLUGINS.format(path=f"{options.name}/{VERSION}/{FOLDER}/{AUTOLOAD}")
    return _START_PLAN.format(version=file.tensorrt_version, target=file.target, plugins=plugins)


def _packages(file: EngineFile) -> list[str]:
    """What pip installs for the engine: bridge, TensorRT-RTX, and the packages with the ops that it uses.

    Generated libraries have no package; they are in the repository.
    """
    rows = [row for row in file.metadata.get("libraries", []) if row["namespace"] != "bridge"]
    origins = {row["origin"] for row in rows if _PACKAGE.fullmatch(row["origin"])}
    own = [f"bridge-tensorrt=={file.metadata.get('bridge')}", f"tensorrt-rtx=={file.tensorrt_version}"]
    return own + [origin.replace(" ", "==") for origin in sorted(origins)]
