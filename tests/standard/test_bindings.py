"""What bridge and torch_tensorrt use of standard TensorRT is in its Python bindings, version by version."""

import ast
import functools
import importlib.util
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from api_uses import uses_in
from declarations import Use

import bridge

# Those that torch_tensorrt 2.11 to 2.14 ask for, and the newest.
VERSIONS = ("10.15.1.29", "10.16.1.11", "11.0.0.114", "11.1.0.106", "11.4.0.106")
NEWEST = VERSIONS[-1]
BRIDGE = Path(bridge.__file__).parent


@dataclass(frozen=True)
class Guard:
    """Uses that some versions lack. in_versions: those that have them. condition: what the function tests before.

    within: the condition stands elsewhere, before the whole file.
    """

    uses: tuple[str, ...]
    condition: str
    in_versions: tuple[str, ...] = ()
    within: str = ""


GUARDS = (
    Guard(
        ("CausalMaskKind", "CausalMaskKind.NONE", "CausalMaskKind.UPPER_LEFT", "add_attention_v2"),
        'hasattr(network, "add_attention_v2")',
        VERSIONS[2:],
    ),
    Guard(
        (
            "ComputeCapability",
            "IBuilderConfig.num_compute_capabilities",
            "IBuilderConfig.set_compute_capability",
        ),
        "flavour.traits.builds_without_gpu",
    ),
    # Reached for a target that is not this machine's GPU: standard TensorRT refuses it (see target.py).
    Guard(
        ("ComputeCapability", "num_compute_capabilities", "set_compute_capability"),
        "target == gpu.current_target()",
        within="tensorrt/guest/cross_compilation.py",
    ),
    Guard(
        (
            "DynamicShapesKernelSpecializationStrategy",
            "DynamicShapesKernelSpecializationStrategy.EAGER",
            "IRuntimeConfig.create_runtime_cache",
            "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
            "IRuntimeConfig.set_runtime_cache",
        ),
        "flavour.traits.compiles_kernels",
    ),
)


@pytest.fixture(scope="module")
def uses(declarations):
    """uses(folder): of a package."""
    known = [declarations("tensorrt_rtx"), declarations(NEWEST)]
    return functools.cache(lambda folder: uses_in(folder, known))


def guards_of(use: Use) -> list[Guard]:
    """The rows whose condition is tested where a use stands."""
    path = use.place.partition(":")[0].removeprefix("bridge/")
    return [
        guard
        for guard in GUARDS
        if use.label in guard.uses
        and (
            guard.condition in (BRIDGE / path).read_text() if path == guard.within else guard.condition in use.function
        )
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_bridge_uses_what_is_there(version, declarations, uses):
    """Every class, function, member and keyword is in this version, or stands behind a test for it."""
    declared = declarations(version)
    problems = {use: declared.problem(use) for use in uses(BRIDGE)}
    assert len(problems) > 500
    unguarded = {
        f"{use.place}: {use.label}: {problem}"
        for use, problem in problems.items()
        if problem and not any(version not in guard.in_versions for guard in guards_of(use))
    }
    assert not unguarded, "\n".join(sorted(unguarded))


@pytest.mark.parametrize("version", VERSIONS)
def test_guards_are_needed(version, declarations, uses):
    """A row says truly which versions have its uses, and each of its uses is there and guarded."""
    declared = declarations(version)
    found = uses(BRIDGE)
    for guard in GUARDS:
        for label in guard.uses:
            guarded = [use for use in found if use.label == label and guard in guards_of(use)]
            assert guarded, f"nothing uses {label} behind {guard.condition}"
            has_it = declared.problem(guarded[0]) is None
            assert has_it == (version in guard.in_versions), f"{label} in {version}"


# What torch_tensorrt uses of TensorRT that its own version of it lacks, on ways that bridge does not take.
TORCH_TENSORRT_LACKS = {
    "BuilderFlag.STRICT_TYPES": "strict_type_constraints, which nothing passes",
    "PreviewFeature.MULTIDEVICE_RUNTIME_10_16": "several GPUs",
    "tensorrt": "the module within the package, which the bindings do not have",
    "_package_name": "its own proxy",
}


def test_torch_tensorrt_uses_what_is_there(declarations, uses):
    """The converters of the installed torch_tensorrt, against the TensorRT that they were made for."""
    spec = importlib.util.find_spec("torch_tensorrt")
    if spec is None:
        pytest.skip("needs torch_tensorrt")
    folder = Path(spec.submodule_search_locations[0])
    version = made_for(folder / "_version.py")
    declared = declarations(version)
    lacking = {use.label for use in uses(folder / "dynamo" / "conversion") if declared.problem(use)}
    assert lacking <= TORCH_TENSORRT_LACKS.keys()


def made_for(file: Path) -> str:
    """The version among ours that a torch_tensorrt asks for."""
    values = {each.targets[0].id: each.value.value for each in ast.parse(file.read_text()).body}
    minor = values["__tensorrt_version__"].rpartition(".")[0]
    return next(version for version in VERSIONS if version.startswith(f"{minor}."))


MISTAKES = {
    "trt.NoSuchClass": "the module lacks it",
    "trt.ActivationType.NO_SUCH": "ActivationType lacks it",
    'getattr(trt.UnaryOperation, "CUBE")': "UnaryOperation lacks it",
    "trt.Builder(logger, 1)": "it takes no 2 arguments",
    "network.add_constant(shape, weights).no_such": "IConstantLayer lacks it",
    "trt.INetworkDefinition.add_plugin_v3(network, inputs, plugins=[])": "it takes no 2 arguments, plugins=",
    "trt.Builder(logger).create_network(flag=1)": "it takes no 0 arguments, flag=",
}


@pytest.mark.parametrize("source", MISTAKES)
def test_mistakes_are_found(source, declarations, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "source.py").write_text(
        f"def function(trt, logger, network, shape, weights):\n    {source}\n"
    )
    declared = declarations(NEWEST)
    found = {use: declared.problem(use) for use in uses_in(tmp_path / "package", [declared])}
    assert [problem for problem in found.values() if problem] == [MISTAKES[source]]


def test_names_given_by_other_functions_are_found(declarations, tmp_path):
    (tmp_path / "part").mkdir()
    source = """
        def activate(trt, x, function):
            return getattr(trt.ActivationType, function)

        def outer(trt, x, soft):
            name = "TANH" if soft else "NO_SUCH"
            return activate(trt, x, name), activate(trt, x, function="RELU")

        def caller(trt, x, names):
            return activate(trt, x, names[0])
    """
    *known, _ = source = textwrap.dedent(source).rpartition("\ndef caller")
    (tmp_path / "part" / "source.py").write_text(known[0])
    declared = declarations(NEWEST)
    members = {
        use.name: declared.problem(use) for use in uses_in(tmp_path, [declared]) if use.owner == "ActivationType"
    }
    assert members == {"TANH": None, "NO_SUCH": "ActivationType lacks it", "RELU": None}
    (tmp_path / "part" / "source.py").write_text("".join(source))
    with pytest.raises(AssertionError, match=r"what can names\[0\] be"):
        uses_in(tmp_path, [declared])
