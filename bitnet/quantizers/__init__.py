"""Quantizers, one family a file."""

from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.dorefa import DoReFaActivation, DoReFaGradient, DoReFaWeight, quantize_k

__all__ = ["DoReFaActivation", "DoReFaGradient", "DoReFaWeight", "Quantizer", "quantize_k"]
