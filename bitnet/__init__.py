"""DoReFa-Net on CPUs: low-bitwidth training that executes on packed bits, forward and backward."""

from bitnet import functional, layers, methods, models, optimizers, quantizers, random
from bitnet.codes import Codes
from bitnet.execution import use_kernels
from bitnet.files import load, save
from bitnet.frozen import freeze
from bitnet.layers import Parameter
from bitnet.tensor import Tensor, no_grad

__version__ = "0.1.0"
__all__ = ["Codes", "Parameter", "Tensor", "freeze", "functional", "layers", "load", "methods", "models", "no_grad",
           "optimizers", "quantizers", "random", "save", "use_kernels"]
