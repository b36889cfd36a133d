"""DoReFa-Net on CPUs: low-bitwidth training that executes on packed bits, forward and backward."""

import importlib

from bitnet import constraints, functional, layers, methods, models, optimizers, quantizers, random
from bitnet.codes import Codes
from bitnet.deploy import freeze
from bitnet.exchange import export
from bitnet.execution import use_kernels
from bitnet.files import load, save
from bitnet.module import Module, Parameter, Residual, Sequential
from bitnet.storage.tensorpack import load_tensorpack
from bitnet.tensor import Tensor, no_grad

__version__ = "0.1.0"
__all__ = ["Codes", "Module", "Parameter", "Residual", "Sequential", "Tensor", "Trainer", "constraints", "datasets", "evaluate",
           "export", "freeze", "functional", "layers", "load", "load_tensorpack", "methods", "models", "no_grad", "optimizers",
           "quantizers", "random", "save", "use_kernels"]

# imported when first asked for: readers of data and pictures load libraries that a prediction does not need
_LATER = {"datasets": "bitnet.datasets", "Trainer": "bitnet.training", "evaluate": "bitnet.training"}


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module 'bitnet' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    return module if _LATER[name] == f"bitnet.{name}" else getattr(module, name)
