"""What is in a generated library, for people and for `bridge explain`: library.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.core.device_code import code_bytes
from bridge.generate.native import triton_private
from bridge.generate.native.canonical import made_by
from bridge.generate.native.plan import Choices, Kernel, Plan
from bridge.generate.program import Launch, Region, TensorType


def report(
    namespace: str, plans: Sequence[Plan], capabilities: Sequence[int], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The description as JSON. Sizes in bytes; seconds: of compiling kernels, and of the library itself."""
    return {
        "namespace": namespace,
        "targets": [f"sm{capability}" for capability in capabilities],
        "triton": triton_private.version(),
        "made_by": made_by(),
        "seconds": {what: round(value, 2) for what, value in seconds.items()},
        "ops": [_op(plan) for plan in plans],
    }


def _op(plan: Plan) -> dict[str, Any]:
    instance = plan.instance
    return {
        "name": plan.name,
        "operator": instance.operator,
        "schema": instance.schema,
        "inputs": [{"name": each.name, **_tensor(each.type)} for each in plan.tensors],
        "outputs": [_tensor(each) for each in instance.outputs],
        "attributes": {name: value if _plain(value) else str(value) for name, value in instance.attributes.items()},
        "symbols": [
            {"name": str(each.symbol), "input": each.input, "axis": each.axis, "low": each.low, "high": each.high}
            for each in instance.symbols
        ],
        "workspace_bytes": plan.workspace_bytes,
        "regions": [_region(plan, region) for region in instance.regions],
        "kernels": [_kernel(kernel) for kernel in plan.kernels],
    }


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _tensor(tensor: TensorType | None) -> dict[str, Any]:
    if tensor is None:
        return {"dtype": None, "shape": None}
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [_extent(each) for each in tensor.shape]}


def _extent(extent: Any) -> int | str:
    return int(extent) if str(extent).isdigit() else str(extent)


def _region(plan: Plan, region: Region) -> dict[str, Any]:
    steps: list[Any] = []
    for step in region.steps:
        if isinstance(step, Launch):
            steps.append({"launch": _choices(plan.choices_of(step))})
        else:
            steps.append({type(step).__name__.lower(): str(step.bytes)})
    return {"conditions": [str(each) for each in region.conditions], "steps": steps}


def _choices(choices: Choices) -> list[dict[str, Any]]:
    return [
        {
            "kernel": each.general.name,
            "aligned": each.aligned.name,
            "divisible": each.divisible.name,
            "grid": [_extent(extent) for extent in each.configuration.grid],
        }
        for each in choices.all
    ]


def _kernel(kernel: Kernel) -> dict[str, Any]:
    file, line = triton_private.source_of(kernel.source.kernel)
    compressed = code_bytes(kernel.fat_binary)
    return {
        "name": kernel.name,
        "function": triton_private.name_of(kernel.source.kernel),
        "file": file,
        "line": line,
        "constants": {name: str(value) for name, value in kernel.source.constants},
        "options": {name: str(value) for name, value in kernel.source.options},
        "divisible": sorted(kernel.source.divisible),
        "targets": {
            f"sm{capability}": {
                "warps": code.warps,
                "shared_bytes": code.shared_bytes,
                "scratch_bytes": code.scratch_bytes,
                "cubin_bytes": len(code.cubin),
                "compressed_bytes": compressed.get(capability, 0),
                "seconds": round(code.seconds, 3),
            }
            for capability, code in sorted(kernel.code.items())
        },
    }
