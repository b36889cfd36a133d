"""Modules: a network is a tree of them.

A module finds its children, its parameters and its buffers among its attributes, also in lists, tuples and dicts. What does not
depend on numbers is known without running: shapes and bits (``flow``, ``summary``), what a tree consists of (``repr``,
``description.describe``).
"""

import inspect
import weakref
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from bitnet import execution, random
from bitnet.checks import check_name, number, wholes
from bitnet.description import Described
from bitnet.kernels.pointwise.finite import all_finite
from bitnet.settings import Setting
from bitnet.tensor import Tensor, as_tensor, no_grad
from bitnet.text import columns, packed_size, size_text

_structure = [0]  # counts changes of any tree: what was decided for a tree holds as long as this is the same
_empty = Setting("without_values", False)


def structure():
    """A number that changes whenever a module is made or replaced anywhere."""
    return _structure[0]


def without_values():
    """Inside ``with``, new modules have parameters and buffers of the right shapes that take no memory, to be replaced."""
    return _empty.set_to(True)


def initial(shape, make, dtype=np.float32):
    """``make()``, an array of ``shape``; inside ``without_values`` one of that shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape) if _empty.get() else make()


class Signal(NamedTuple):
    """What travels between modules, as far as it is known without running.

    Attributes
    ----------
    shape : of one sample, (H, W, C) or (D,); None: not known
    bits : of each number, 32 for real numbers; encoding : of codes, else "real"
    """

    shape: tuple | None = None
    bits: int = 32
    encoding: str = "real"

    @property
    def is_codes(self):
        return self.encoding != "real"

    def real(self, shape=None):
        """Real numbers of this shape, or of another one."""
        return Signal(self.shape if shape is None else shape)

    def with_shape(self, shape):
        return self._replace(shape=shape)


class Parameter(Tensor):
    """A tensor that an optimizer updates.

    Parameters
    ----------
    data : float array
    weight_decay : its L2 penalty, on top of the optimizer's own
    lr_factor : multiplies the optimizer's learning rate
    constraint : a function that changes the array in place after each update, see ``constraints``; or None
    """

    space = None  # of numbers that it is confined to, see ``layers.DiscreteParameter``

    def __init__(self, data, weight_decay=0.0, lr_factor=1.0, constraint=None):
        super().__init__(data, requires_grad=True)
        self.weight_decay, self.lr_factor, self.constraint = weight_decay, lr_factor, constraint

    @property
    def stored(self):
        """The array that is kept, in memory and on disk."""
        return self.data

    @stored.setter
    def stored(self, array):
        self.data = array

    def check_stored(self, name, array):
        """ValueError where an array cannot be ``stored``."""
        if array.dtype != self.stored.dtype:
            raise ValueError(f"{name} must be {self.stored.dtype}, got {array.dtype}")

    def traits(self):
        """What of weight_decay, lr_factor and constraint is not the default, by name."""
        plain = {"weight_decay": 0.0, "lr_factor": 1.0, "constraint": None}
        return {name: getattr(self, name) for name, default in plain.items() if getattr(self, name) != default}


def _among(name, value, kind):
    """Objects of a kind that an attribute holds, itself or in lists, tuples and dicts, by dotted name."""
    if isinstance(value, kind):
        return {name: value}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    return {dotted: one for key, part in value.items() for dotted, one in _among(f"{name}.{key}", part, kind).items()}


def entering(x):
    """What somebody gives to a network, as a Tensor; ValueError where it is not finite: quantizers make codes of anything."""
    x = as_tensor(x)
    if x.codes is None and x.data.dtype.kind == "f" and not all_finite(x.data):
        raise ValueError(f"a network takes finite numbers, got {x.data.min():g} to {x.data.max():g}")
    return x


class Module(Described):
    """A part of a network.

    Subclasses define ``forward(x)``, Tensor to Tensor, and ``flow`` where shape or bits change. Parameters, buffers (float64
    arrays, kept but not trained) and other modules are found among the attributes. A call takes a Tensor or an array.

    Attributes
    ----------
    training : bool, see ``train``
    name : dotted, from the outermost module that was called last; what logs and tables show
    """

    training = True
    name = ""
    _version = -1

    def __new__(cls, *args, **options):
        _structure[0] += 1
        return super().__new__(cls)

    def __setattr__(self, name, value):
        structural = (Module, Parameter, list, dict)
        if isinstance(value, structural) or isinstance(self.__dict__.get(name), structural):
            _structure[0] += 1
        super().__setattr__(name, value)

    def _outermost(self):
        """The module that gave this one its name; ``name_layers`` puts a weak reference here."""
        return self

    def forward(self, x):
        raise NotImplementedError

    def __call__(self, x):
        if self._version != _structure[0]:  # the outermost module is the first to notice, or it has named this one before
            (self._outermost() or self).name_layers()
            if self._version != _structure[0]:  # no part of it any more
                self.name_layers()
        with execution.layer(self.name or execution.current_layer()):
            return self.forward(x if isinstance(x, Tensor) else entering(x))

    # The tree

    def children(self):
        """Modules right below this one, by name relative to it."""
        return {name: child for attribute, value in vars(self).items()
                for name, child in _among(attribute, value, Module).items()}

    def named_modules(self, prefix=""):
        """This module ("" by itself) and all below it, by dotted name, in the order of their making."""
        found = {prefix: self}
        for name, child in self.children().items():
            found |= child.named_modules(f"{prefix}.{name}" if prefix else name)
        return found

    def modules(self):
        """This module and all below it, each once."""
        return list({id(module): module for module in self.named_modules().values()}.values())

    def _named(self, kind):
        return {f"{owner}.{name}" if owner else name: value for owner, module in self.named_modules().items()
                for attribute, held in vars(module).items() for name, value in _among(attribute, held, kind).items()}

    def named_parameters(self):
        """All parameters by dotted name."""
        return self._named(Parameter)

    def parameters(self):
        """All parameters, each once."""
        return list({id(parameter): parameter for parameter in self.named_parameters().values()}.values())

    def named_buffers(self):
        """All arrays that are kept but not trained, by dotted name."""
        return self._named(np.ndarray)

    def name_layers(self, prefix="", outermost=None):
        """Tell every module its dotted name; called where the outermost module of a changed tree is."""
        self.name, self._version = prefix, _structure[0]
        self._outermost = outermost or weakref.ref(self)
        for name, child in self.children().items():
            child.name_layers(f"{prefix}.{name}" if prefix else name, self._outermost)
        return self

    def traits(self):
        """``Parameter.traits`` of its own parameters, by name; part of a description."""
        own = {name: parameter.traits() for name, parameter in self._own_parameters().items()}
        return {name: traits for name, traits in own.items() if traits}

    def _own_parameters(self):
        return {name: one for attribute, held in vars(self).items() for name, one in _among(attribute, held, Parameter).items()}

    def take_traits(self, traits):
        """Give its parameters what ``traits`` returned."""
        for name, parameter in self._own_parameters().items():
            for trait, value in traits.get(name, {}).items():
                if trait not in ("weight_decay", "lr_factor", "constraint"):
                    raise ValueError(f"a parameter has no trait {trait!r}")
                if trait != "constraint":
                    number(trait, value)
                elif getattr(value, "prefix", None) != "constraint.":
                    raise ValueError(f"expected the constraint of a parameter, found {value!r}")
                setattr(parameter, trait, value)

    # State

    def state_dict(self):
        """Copies of all parameters and buffers by dotted name."""
        state = {name: parameter.stored.copy() for name, parameter in self.named_parameters().items()}
        return state | {name: buffer.copy() for name, buffer in self.named_buffers().items()}

    def load_state_dict(self, state):
        """Take over the arrays of a ``state_dict``.

        Raises
        ------
        ValueError : names, shapes or types are not those of this module; nothing is changed then.
        """
        parameters, buffers = self.named_parameters(), self.named_buffers()
        self.check_state(state, parameters, buffers)
        for name, parameter in parameters.items():
            if parameter.stored.flags.writeable:
                parameter.stored[...] = state[name]
            else:  # made without values
                parameter.stored = np.array(state[name])
        for name, buffer in buffers.items():
            if buffer.flags.writeable:
                buffer[...] = state[name]
            else:
                owner, _, attribute = name.rpartition(".")
                setattr(self.named_modules()[owner], attribute, np.array(state[name]))

    def check_state(self, state, parameters=None, buffers=None):
        """ValueError where ``load_state_dict`` would not take a state."""
        parameters, buffers = parameters or self.named_parameters(), self.named_buffers() if buffers is None else buffers
        targets = {name: parameter.stored for name, parameter in parameters.items()} | buffers
        missing, unexpected = sorted(targets.keys() - state.keys()), sorted(state.keys() - targets.keys())
        if missing or unexpected:
            raise ValueError(f"the state is of another model: missing {missing or 'nothing'}, "
                             f"unexpected {unexpected or 'nothing'}")
        for name, target in targets.items():
            if np.shape(state[name]) != target.shape:
                raise ValueError(f"{name} must have shape {target.shape}, got {np.shape(state[name])}")
        for name, parameter in parameters.items():
            parameter.check_stored(name, np.asarray(state[name]))
        for name, buffer in buffers.items():
            if np.asarray(state[name]).dtype != buffer.dtype:
                raise ValueError(f"{name} must be {buffer.dtype}, got {np.asarray(state[name]).dtype}")

    # Mode

    def train(self, mode=True):
        """Switch this module and all below it to training (dropout, batch statistics, stochastic quantizers)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Switch to evaluation."""
        return self.train(False)

    def zero_grad(self):
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def advance(self, progress):
        """Change what changes in the course of a run; called before each step with the share of the run that is done, 0 to 1.

        Returns
        -------
        restarted : True where gradients are of another size from here on, so that an optimizer should forget what it gathered
        """
        return False

    # What is known without running

    def flow(self, signal, visit):
        """What becomes of a Signal. Here: found by running on zeros; layers of this package know it.

        ``visit(module, before, after)`` is called for every module below.
        """
        if signal.shape is None:
            return Signal()
        with no_grad(), preserved(self):
            return Signal(self.eval()(np.zeros((1, *signal.shape), np.float32)).shape[1:])

    def trace(self, signal, visit=lambda module, before, after: None):
        """``flow`` of this module, visited like those below it."""
        after = self.flow(signal, visit)
        visit(self, signal, after)
        return after

    def work(self, before, after):
        """For a module that multiplies: (W, A, G) bits, multiply-accumulates a sample, how it runs; None for others."""
        return None

    @property
    def input_shape(self):
        """(H, W, C) that the network takes, where a module in it says so or a training has told, else None."""
        return next((module.shape for module in self.modules() if module.is_input), getattr(self, "trained_on", None))

    is_input = False  # is it where images enter, with a shape of its own?

    def summary(self, shape=None):
        """The tree as a table: shapes, bits, bytes, and what products run on, without running anything.

        Parameters
        ----------
        shape : (H, W, C) of an image, or (D,); None: what the network says itself

        Raises
        ------
        ValueError : the shape does not fit, or is not known.
        """
        shape = self.input_shape if shape is None else tuple(shape)
        if shape is None:
            raise ValueError("this network does not tell what it takes: expected the shape of an image, such as (28, 28, 1)")
        self.name_layers()
        rows, left = [], {name: parameter.data for name, parameter in self.named_parameters().items()}
        names = {id(module): name for name, module in reversed(self.named_modules().items())}

        def visit(module, before, after):
            work = module.work(before, after)
            if work is None:
                return
            (w, a, g), macs, how = work
            prefix = f"{names[id(module)]}."
            own = {name: left.pop(name) for name in list(left) if name.startswith(prefix)}
            sizes = [sum(array.size for array in own.values()), sum(array.nbytes for array in own.values()),
                     sum(packed_size(array, w if name.endswith("weight") else 32) for name, array in own.items()), macs]
            rows.append((module.name or type(module).__name__, after.shape, f"{w},{a},{g}", sizes, how))

        self.trace(Signal(shape), visit)
        rest = [sum(array.size for array in left.values()), *[sum(array.nbytes for array in left.values())] * 2, 0]
        total = np.sum([rest, *(sizes for *_, sizes, _ in rows)], axis=0)
        table = [["layer", "output", "W,A,G", "parameters", "float", "packed", "MMAC", "runs on"]]
        if left:
            rows.append(("batch norm and others", None, "", rest, ""))
        rows.append(("all", None, "", list(total), ""))
        for name, out, bits, (count, size, packed, macs), how in rows:
            table.append([name, "x".join(map(str, out or ())), bits, f"{count:,}", size_text(size), size_text(packed),
                          f"{macs / 1e6:.2f}", how])
        return columns(table, left=(0, 1, 2, 7))

    # As text

    def about(self):
        """What of the options a ``repr`` shows."""
        try:
            options = self.options()
        except ValueError:  # of one's own, not made to be saved
            return ""
        defaults = {name: one.default for name, one in inspect.signature(type(self).__init__).parameters.items()}
        return ", ".join(f"{name}={value!r}" for name, value in options.items()
                         if value != defaults.get(name) and not isinstance(value, (Module, list, dict)))

    def __repr__(self):
        lines = [f"{name}: {child!r}".replace("\n", "\n  ") for name, child in self.children().items()]
        head = f"{type(self).__name__}({self.about()})"
        return "\n  ".join([head, *lines])


@contextmanager
def preserved(model):
    """Restore a network's buffers, gradients and mode, and the stream of random draws, after ``with``."""
    buffers = {name: buffer.copy() for name, buffer in model.named_buffers().items()}
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with random.preserved():
            yield
    finally:
        for name, buffer in model.named_buffers().items():
            buffer[...] = buffers[name]
        for parameter, grad in grads:
            parameter.grad = grad
        for module, mode in modes:
            module.training = mode


def _module(value, kind=Module):
    """What a description says is a module; ValueError where it is none."""
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__} in the tree, found {value!r}")
    return value


class Sequential(Module):
    """Modules one after the other, each with a name: ``Sequential(first, second)`` or ``Sequential(conv=..., fc=...)``.

    ``net[0]``, ``net["fc"]`` and ``net.fc`` are its modules.

    Attributes
    ----------
    method : the method that rewrote this tree, or None
    trained_on, classes, pictures : shape of the images and names of the classes that it was trained on, and in which manner its
        pictures were prepared (``datasets.prepare_for``); or None
    """

    method = trained_on = classes = pictures = None
    changing = ("trained_on", "classes", "pictures")

    def __init__(self, *modules, **named):
        self.layers = {str(i): module for i, module in enumerate(modules)} | named

    @classmethod
    def rebuild(cls, layers):
        for name, module in layers.items():
            check_name(name)
            _module(module)
        return cls(**layers)

    def options(self):
        return {"layers": self.layers}

    def traits(self):
        known = {"method": self.method, "trained_on": self.trained_on, "classes": self.classes, "pictures": self.pictures}
        return {name: value for name, value in known.items() if value is not None}

    def take_traits(self, traits):
        if traits.keys() - {"method", "trained_on", "classes", "pictures"}:
            raise ValueError(f"a tree has no trait {sorted(traits)}")
        method, shape, classes, pictures = (traits.get(name) for name in ("method", "trained_on", "classes", "pictures"))
        if method is not None and getattr(method, "prefix", None) != "method.":
            raise ValueError(f"expected the method of a tree, found {method!r}")
        if classes is not None and not (isinstance(classes, tuple) and all(isinstance(one, str) for one in classes)):
            raise ValueError(f"expected the names of classes, found {classes!r}")
        if pictures is not None and not isinstance(pictures, str):
            raise ValueError(f"expected the manner of preparing pictures as a text, found {pictures!r}")
        self.method, self.classes, self.pictures = method, classes, pictures
        self.trained_on = None if shape is None else wholes("the shape that a tree was trained on", shape, low=1)

    def children(self):
        return dict(self.layers)

    def __getattr__(self, name):
        layers = self.__dict__.get("layers", {})
        if name in layers:
            return layers[name]
        raise AttributeError(f"{type(self).__name__} has no layer and no attribute {name!r}")

    def __getitem__(self, key):
        return self.layers[key] if isinstance(key, str) else list(self.layers.values())[key]

    def __len__(self):
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers.values())

    def replace(self, name, module):
        """Put another module in the place of one."""
        self.layers = {key: module if key == name else old for key, old in self.layers.items()}

    def insert(self, before, **named):
        """Put modules before the one of that name; None: at the end."""
        rest = dict(self.layers)
        if before is None:
            self.layers = rest | named
            return
        if before not in rest:
            raise ValueError(f"expected one of the layers {', '.join(rest)}, got {before!r}")
        keys = list(rest)
        place = keys.index(before)
        self.layers = {key: rest[key] for key in keys[:place]} | named | {key: rest[key] for key in keys[place:]}

    def forward(self, x):
        for module in self.layers.values():
            x = module(x)
        return x

    def flow(self, signal, visit):
        for module in self.layers.values():
            signal = module.trace(signal, visit)
        return signal

    def about(self):
        return ""


class Residual(Module):
    """body(x) + x, or + shortcut(x).

    Parameters
    ----------
    *modules, **named : the body, one after the other
    shortcut : a module in the place of the identity, or None
    """

    def __init__(self, *modules, shortcut=None, **named):
        self.body, self.shortcut = Sequential(*modules, **named), shortcut

    def __getattr__(self, name):
        layers = self.__dict__["body"].layers if "body" in self.__dict__ else {}
        if name in layers:
            return layers[name]
        raise AttributeError(f"{type(self).__name__} has no layer and no attribute {name!r}")

    @classmethod
    def rebuild(cls, body, shortcut):
        made = cls(shortcut=shortcut and _module(shortcut))
        made.body = _module(body, Sequential)
        return made

    def options(self):
        return {"body": self.body, "shortcut": self.shortcut}

    def children(self):
        return self.body.children() | ({"shortcut": self.shortcut} if self.shortcut else {})

    def replace(self, name, module):
        if name in self.body.layers:
            self.body.replace(name, module)
        else:
            self.shortcut = module

    def forward(self, x):
        y = x
        for module in self.body:  # not self.body(x): its modules have their names from here
            y = module(y)
        return y + (self.shortcut(x) if self.shortcut else x)

    def flow(self, signal, visit):
        body = self.body.flow(signal, visit)
        short = self.shortcut.trace(signal, visit) if self.shortcut else signal
        if body.shape != short.shape:
            raise ValueError(f"the two ways of a residual must end in one shape, got {body.shape} and {short.shape}")
        return body.real()  # a sum of codes is no code of as many bits

    def about(self):
        return ""
