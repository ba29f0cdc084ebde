"""A gated RMS norm in Triton, and a mixing layer that uses it."""

from acme_norm.gated_rms_norm import gated_rms_norm as gated_rms_norm
from acme_norm.model import Mixer as Mixer
