"""How other libraries get a network of ours: a function for each kind of module, so that any tree of these has its peer."""

from bitnet.module import Signal


class Reading:
    """Makes what a module of ours is in another library.

        reading = Reading("PyTorch")

        @reading.of(layers.MaxPool)
        def _(module, ...):
            return nn.MaxPool2d(module.size)

        reading(network, ...)    # what the function for its kind returns
    """

    def __init__(self, library):
        self.library, self.functions = library, {}

    def of(self, *kinds):
        """Decorate the function that reads modules of these kinds."""
        def enter(function):
            self.functions |= dict.fromkeys(kinds, function)
            return function
        return enter

    def __call__(self, module, *context):
        kind = next((kind for kind in type(module).__mro__ if kind in self.functions), None)
        if kind is None or type(module).forward is not kind.forward:
            raise ValueError(f"{module.name or 'the network'} is not compared with {self.library}: its {type(module).__name__} "
                             "has no counterpart here")
        return self.functions[kind](module, *context)


def shapes_of(model, shape=None):
    """What enters each module, (H, W, C) or (D,) by its id, and what leaves the network; ``shape`` where it does not tell."""
    found = {}
    after = model.name_layers().trace(Signal(model.input_shape or shape),
                                      lambda module, before, after: found.setdefault(id(module), before.shape))
    return found, after.shape
