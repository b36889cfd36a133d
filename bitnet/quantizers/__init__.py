"""Quantizers, those of a paper in a file; and all of them by name.

    names()            every name
    get("twn")         a quantizer, with the paper's defaults
    get("ttq", t=0.1)  with other options
"""

from bitnet.quantizers.base import Quantizer
from bitnet.quantizers.bfcn import BFCNActivation, BFCNWeight
from bitnet.quantizers.binaryconnect import BinaryConnectWeight
from bitnet.quantizers.bitwise import BitwiseActivation, BitwiseWeight
from bitnet.quantizers.bnn import BinaryInput, BNNActivation, BNNWeight, PixelInput
from bitnet.quantizers.dorefa import DoReFaActivation, DoReFaGradient, DoReFaWeight, quantize_k
from bitnet.quantizers.fgq import FGQWeight
from bitnet.quantizers.fixed_point import FixedPointActivation, FixedPointWeight
from bitnet.quantizers.graham import NormalizedActivation
from bitnet.quantizers.gxnor import GXNORActivation, GXNORWeight
from bitnet.quantizers.lbc import AnchorWeight
from bitnet.quantizers.qnn import QNNLinear, QNNLogarithmic
from bitnet.quantizers.sketch import SketchWeight
from bitnet.quantizers.staircase import StaircaseWeight
from bitnet.quantizers.tnn import IntegerThresholds, TNNActivation, TNNWeight
from bitnet.quantizers.ttq import SparseTernaryWeight, TTQWeight
from bitnet.quantizers.twn import TWNWeight
from bitnet.quantizers.uniform import UniformActivation, UniformWeight
from bitnet.quantizers.words import KernelWords, LearnedWords, SelectedWords
from bitnet.quantizers.xnor import BWNWeight, XNORActivation, XNORGradient, XNORWeight

__all__ = [
    "AnchorWeight", "BFCNActivation", "BFCNWeight", "BNNActivation", "BNNWeight", "BWNWeight", "BinaryConnectWeight",
    "BinaryInput", "BitwiseActivation", "BitwiseWeight", "DoReFaActivation", "DoReFaGradient", "DoReFaWeight", "FGQWeight",
    "FixedPointActivation", "FixedPointWeight", "GXNORActivation", "GXNORWeight", "IntegerThresholds", "KernelWords",
    "LearnedWords", "NormalizedActivation", "PixelInput", "QNNLinear", "QNNLogarithmic", "Quantizer", "SelectedWords",
    "SketchWeight", "SparseTernaryWeight", "StaircaseWeight", "TNNActivation", "TNNWeight", "TTQWeight", "TWNWeight",
    "UniformActivation", "UniformWeight", "XNORActivation", "XNORGradient", "XNORWeight", "get", "names", "quantize_k",
]  # fmt: skip

# name -> class and the options that belong to the name
_QUANTIZERS = {
    "dorefa_weight": (DoReFaWeight, {"bits": 1}),
    "dorefa_activation": (DoReFaActivation, {"bits": 2}),
    "dorefa_gradient": (DoReFaGradient, {"bits": 4}),
    "bfcn_weight": (BFCNWeight, {"bits": 2}),
    "bfcn_activation": (BFCNActivation, {"bits": 2}),
    "bwn": (BWNWeight, {}),
    "bwn_filter": (XNORWeight, {}),
    "binaryconnect": (BinaryConnectWeight, {}),
    "binaryconnect_stochastic": (BinaryConnectWeight, {"stochastic": True}),
    "bnn_weight": (BNNWeight, {}),
    "bnn_activation": (BNNActivation, {}),
    "bnn_activation_stochastic": (BNNActivation, {"stochastic": True}),
    "pixels": (PixelInput, {}),
    "binary_input": (BinaryInput, {}),
    "xnor_weight": (XNORWeight, {}),
    "xnor_activation": (XNORActivation, {}),
    "xnor_gradient": (XNORGradient, {}),
    "twn": (TWNWeight, {}),
    "ttq": (TTQWeight, {}),
    "ternary_sparse": (SparseTernaryWeight, {}),
    "qnn_linear": (QNNLinear, {"bits": 2}),
    "qnn_logarithmic": (QNNLogarithmic, {"bits": 3}),
    "gxnor_weight": (GXNORWeight, {}),
    "gxnor_activation": (GXNORActivation, {}),
    "normalized_activation": (NormalizedActivation, {"bits": 2}),
    "bitwise_weight": (BitwiseWeight, {}),
    "bitwise_activation": (BitwiseActivation, {}),
    "staircase": (StaircaseWeight, {}),
    "fixed_point_activation": (FixedPointActivation, {"bits": 8}),
    "fixed_point_weight": (FixedPointWeight, {"bits": 8}),
    "fgq": (FGQWeight, {}),
    "tnn_activation": (TNNActivation, {}),
    "tnn_weight": (TNNWeight, {}),
    "sketch": (SketchWeight, {}),
    "sketch_direct": (SketchWeight, {"refined": False}),
    "uniform_weight": (UniformWeight, {"bits": 2}),
    "uniform_activation": (UniformActivation, {"bits": 2}),
}


def names():
    """All names that ``get`` knows."""
    return list(_QUANTIZERS)


def get(name, **options):
    """A new quantizer by its name.

    Parameters
    ----------
    name : one of ``names()``
    **options   # of its class; what the name stands for is the default

    Raises
    ------
    ValueError : no quantizer of that name, or options that it does not have.
    """
    if name not in _QUANTIZERS:
        raise ValueError(f"the quantizer must be one of {', '.join(_QUANTIZERS)}, got {name!r}")
    kind, defaults = _QUANTIZERS[name]
    try:
        return kind(**defaults | options)
    except TypeError as error:
        raise ValueError(f"the quantizer {name!r} does not take these options: {options}") from error
