"""Where a number stopped being finite."""

import numpy as np

from bitnet import random
from bitnet.kernels.pointwise.finite import all_finite
from bitnet.layers import unfused
from bitnet.tensor import Tensor, no_grad


class NonFiniteError(ArithmeticError):
    """A loss, gradient or parameter is infinite or not a number. One sentence naming the step and where it began."""


def find_non_finite(model, images, noise):
    """Repeat the forward pass of a batch that went wrong and look where it did.

    Parameters
    ----------
    model : Module
    images : float32 array
    noise : tuple   # random state before the batch

    Returns
    -------
    origin : str    # names the first layer, in order of execution
    """
    if not all_finite(images):
        return "it began in the images of the batch, which are not finite"
    for name, parameter in model.named_parameters().items():
        if not all_finite(parameter.data):
            return began(name, "its {}")
    found, watched = [], []

    def watch(name, module):
        forward = module.forward

        def watching(*args, **kwargs):
            output = forward(*args, **kwargs)
            if not found and isinstance(output, Tensor) and not all_finite(output.data):
                found.append(began(f"{name}.output", "its {}"))
            return output

        module.__dict__["forward"] = watching  # hides the class's method until it is deleted again
        watched.append(module)

    for name, module in model.named_modules().items():
        if module is not model:
            watch(name, module)
    try:
        with random.preserved(), no_grad(), unfused(), np.errstate(all="ignore"):
            random.set_state(noise)
            model(images)
    finally:
        for module in watched:
            del module.__dict__["forward"]
    return found[0] if found else "it began in the loss itself, all layers are finite"


def began(name, what):
    """Where something began, in words; ``name`` is dotted, ``what`` has a place for its last part."""
    layer, _, part = name.rpartition(".")
    return f"it began in layer {layer}: {what.format(part)} is not finite"
