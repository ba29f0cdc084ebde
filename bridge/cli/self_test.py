"""A smallest engine, to see whether this machine builds and runs engines at all."""

import torch

from bridge.config import Config
from bridge.engine_file.contents import EngineFile, OutputSpec, TensorSpec
from bridge.engine_file.pytrees import Tree
from bridge.errors import EngineError
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.target import resolve_target
from bridge.tensorrt.network.build import build_engine, create_network
from bridge.tensorrt.run.engine import Engine


def build(flavour: Flavour, target: str | None = None) -> EngineFile:
    """An engine of one ReLU layer, for the current GPU or for `target`; torch_tensorrt has no part in it.

    TargetError, BuildError: this flavour does not build for that GPU.
    """
    target = resolve_target(flavour, target)
    trt = flavour.trt()
    builder, network = create_network(flavour)
    layer = network.add_activation(network.add_input("x", trt.DataType.FLOAT, (2,)), trt.ActivationType.RELU)
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    return EngineFile(
        engine=build_engine(flavour, builder, network, (), target, Config(progress=False)),
        flavour=flavour.name,
        tensorrt_version=flavour.version,
        target=target,
        plugins={},
        inputs=(TensorSpec("x", "float32", (2,), (2,), (2,)),),
        outputs=(OutputSpec("y", "float32", (2,)),),
        layers=[],
        in_spec=Tree(),
        out_spec=Tree(),
        output_map=[0],
        metadata={},
    )


def run(file: EngineFile) -> None:
    """Runs that engine on the current GPU. EngineError: TensorRT does not load or run it, or the result is wrong."""
    x = torch.tensor([-1.0, 2.0], device="cuda")
    (y,) = Engine(file)(x)
    if y.tolist() != [0.0, 2.0]:
        raise EngineError(f"an engine of one ReLU layer made {y.tolist()} of {x.tolist()}")
