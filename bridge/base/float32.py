"""Numbers as float32 has them: kernels compute in it, and attributes of ONNX hold nothing wider."""

import math

import numpy
import torch


def nearest(value: float, dtype: torch.dtype = torch.float32) -> float:
    """The nearest number of a dtype that is float32 or wider; an infinity where it has none so large."""
    if dtype == torch.float64:
        return value
    with numpy.errstate(over="ignore"):
        return float(numpy.float32(value))


def below(value: float) -> float:
    """The greatest number of float32 that is not above the value: a float32 exceeds both, or neither."""
    found = nearest(value)
    return float(numpy.nextafter(numpy.float32(found), numpy.float32(-math.inf))) if found > value else found


def parts(value: float) -> list[float]:
    """Up to three numbers of float32 that add up to the value, greatest first; the plugin adds them up (fields.cpp)."""
    found = [nearest(value)]
    while len(found) < 3 and math.isfinite(found[-1]) and (rest := value - math.fsum(found)):
        found.append(nearest(rest))
    return found
