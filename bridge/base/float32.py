"""Rounding to float32: kernels compute in it, and ONNX attributes hold nothing wider."""

import math

import numpy
import torch


def nearest(value: float, dtype: torch.dtype = torch.float32) -> float:
    """The nearest value in float32 or float64; infinity on overflow."""
    if dtype == torch.float64:
        return value
    with numpy.errstate(over="ignore"):
        return float(numpy.float32(value))


def below(value: float) -> float:
    """The greatest float32 not above the value: any float32 exceeds both or neither."""
    rounded = nearest(value)
    return float(numpy.nextafter(numpy.float32(rounded), numpy.float32(-math.inf))) if rounded > value else rounded


def parts(value: float) -> list[float]:
    """Up to three float32 values that sum to the value, largest first; the plugin adds them (fields.cpp)."""
    terms = [nearest(value)]
    while len(terms) < 3 and math.isfinite(terms[-1]) and (rest := value - math.fsum(terms)):
        terms.append(nearest(rest))
    return terms
