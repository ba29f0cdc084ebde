"""Calls of every op, for the tests that hold for all of them. One file an op, named like it; nothing lists the files.

The file of an op defines
    samples()                       [(label, args, kwargs), ...], with odd shapes on purpose
and, unless the shapes of its results depend on values,
    random_call(seed)               (args, kwargs) at random sizes
    PAIR                            (args, args, kwargs): equal attributes, different shapes, none empty
    growing(size, seed)             (first tensor, other arguments), at a batch of `size` and a length of `size` + 6
    growing_shapes(batch, length)   the dynamic shapes {"x": ..., "rest": [...]} of these, for those two Dims
and where it has a native lowering
    open_axes(tensors)              {place of a tensor: the axes that a model may leave open}
It may define
    CHECKED                         places of the samples for the slow checks; 0 and 2 where it does not
    further()                       more samples, for kernels that do not take the others
    SWITCHES                        attributes with which still other kernels take those
    TACTICS                         numbers of kernels that only tests choose
    CONSTANTS                       tensors of which an engine keeps what it makes of them
    ALSO_RAISES                     errors that a CPU raises of wrong values, beside OpInputError
    NATIVE_TOLERANCE                {dtype: share of the largest value} by which a native lowering may differ
"""

from bridge.base.modules import modules_below
from bridge.core.op import OPS
from bridge.tensorrt import native_lowerings

Sample = tuple[str, list, dict]
MODULES = dict(modules_below(__name__))
FIXED = [name for name in OPS if not OPS[name].counted]


def lacking(name: str) -> list[str]:
    """What the file of an op's samples does not define of what it should."""
    wanted = ["samples"]
    wanted += ["random_call", "PAIR", "growing", "growing_shapes"] if name in FIXED else []
    wanted += ["open_axes"] if native_lowerings.find(name) else []
    return [each for each in wanted if not hasattr(MODULES.get(name), each)]


def _of_fixed(attribute: str) -> dict:
    return {name: getattr(MODULES[name], attribute) for name in FIXED if hasattr(MODULES.get(name), attribute)}


SAMPLES, RANDOM, PAIRS = (_of_fixed(attribute) for attribute in ("samples", "random_call", "PAIR"))
DIFFERENTIABLE = [name for name, (args, _, _) in PAIRS.items() if args[0].is_floating_point()]
