"""DoReFa-Net on CPUs: low-bitwidth training that executes on packed bits, forward and backward."""

from bitnet import constraints, datasets, functional, layers, methods, models, optimizers, quantizers, random
from bitnet.codes import Codes
from bitnet.deploy import freeze
from bitnet.execution import use_kernels
from bitnet.files import load, save
from bitnet.module import Module, Parameter, Residual, Sequential
from bitnet.tensor import Tensor, no_grad
from bitnet.training import Trainer, evaluate

__version__ = "0.1.0"
__all__ = ["Codes", "Module", "Parameter", "Residual", "Sequential", "Tensor", "Trainer", "constraints", "datasets", "evaluate",
           "freeze", "functional", "layers", "load", "methods", "models", "no_grad", "optimizers", "quantizers", "random",
           "save", "use_kernels"]
