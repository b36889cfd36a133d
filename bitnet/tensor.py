"""Tensors that remember how they were made, and the walk back through them.

An operation is a ``Function``: its instance is the context of one call, ``forward`` and ``backward`` stand side by side and
see NumPy arrays (or Codes) only. ``Function.apply`` unwraps tensors, runs ``forward`` and hangs the instance on the result
if a gradient will be wanted. ``Tensor.backward`` visits the instances in reverse order and adds up gradients.
"""

from contextlib import nullcontext

import numpy as np

from bitnet.codes import Codes
from bitnet.settings import Setting

_recording = Setting("recording", True)


def no_grad():
    """Inside ``with``, operations remember nothing: no backward pass, and no memory kept for one."""
    return _recording.set_to(False)


def is_recording():
    """False inside ``no_grad``."""
    return _recording.get()


class Tensor:
    """An array, or codes that stand for one, in a graph of operations.

    Parameters
    ----------
    data : float array, or Codes, which ``Tensor.data`` decodes to float32 when it is first asked for
    requires_grad : should ``backward`` leave a gradient in ``Tensor.grad``, an array of the same shape
    """

    def __init__(self, data, requires_grad=False):
        self.codes = data if isinstance(data, Codes) else None
        self._data = None if self.codes is not None else np.asarray(data)
        self.requires_grad = requires_grad
        self.grad = None
        self._function = None

    @property
    def data(self):
        """The values as a float array."""
        if self._data is None:
            self._data = self.codes.decode()
        return self._data

    @data.setter
    def data(self, array):
        self._data, self.codes = array, None

    @property
    def raw(self):
        """What the tensor holds: Codes, or the array."""
        return self._data if self.codes is None else self.codes

    @property
    def shape(self):
        return self.raw.shape

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        kind = f"{self.codes.bits}-bit {self.codes.encoding} codes" if self.codes is not None else str(self.data.dtype)
        return f"Tensor(shape={self.shape}, {kind}{', requires_grad' if self.requires_grad else ''})"

    # a NumPy array on the left leaves the operation to the tensor on the right, instead of taking it for an object
    __array_ufunc__ = None

    def __add__(self, other):
        return Add.apply(self, _operand(other, self))

    def __sub__(self, other):
        return Subtract.apply(self, _operand(other, self))

    def __rsub__(self, other):
        return Subtract.apply(_operand(other, self), self)

    def __mul__(self, other):
        return Multiply.apply(self, _operand(other, self))

    def __truediv__(self, other):
        return Divide.apply(self, _operand(other, self))

    def __rtruediv__(self, other):
        return Divide.apply(_operand(other, self), self)

    def __matmul__(self, other):
        return MatMul.apply(self, _operand(other, self))

    def __rmatmul__(self, other):
        return MatMul.apply(_operand(other, self), self)

    def __neg__(self):
        return self * -1

    def __getitem__(self, index):
        return Index.apply(self, index=index)

    __radd__, __rmul__ = __add__, __mul__

    def reshape(self, *shape):
        """The same values in another shape; codes stay codes."""
        return Reshape.apply(self, shape=shape)

    def sum(self):
        """The sum of all values, a tensor of shape ()."""
        return Sum.apply(self)

    def mean(self):
        """The mean of all values, a tensor of shape ()."""
        return Sum.apply(self) / float(np.prod(self.shape))

    def detach(self):
        """The same values outside the graph."""
        return Tensor(self.raw)

    def backward(self, grad=None):
        """Add d(self)/d(leaf) to ``grad`` of every leaf that requires one, and free what the graph kept.

        Parameters
        ----------
        grad : array of this tensor's shape; 1 for a tensor with a single value

        Raises
        ------
        ValueError : no ``grad`` for a tensor with several values, or one of another shape.
        RuntimeError : nothing was recorded, or a backward pass has already freed it.
        """
        if self._function is None and not self.requires_grad:
            raise RuntimeError("backward: this tensor was not computed from anything that requires a gradient")
        if grad is None:
            if np.prod(self.shape) != 1:
                raise ValueError(f"backward of a tensor of shape {self.shape} needs the gradient of that shape")
            grad = np.ones(self.shape, self.data.dtype)
        elif np.shape(grad) != self.shape:
            raise ValueError(f"the gradient must have the tensor's shape {self.shape}, got {np.shape(grad)}")
        grads = {id(self): grad}
        for tensor in reversed(_in_order(self)):
            grad = grads.pop(id(tensor), None)
            if grad is None:  # whatever was computed from it gave it none
                continue
            function = tensor._function
            if function is None:
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad
                continue
            for parent, parent_grad in zip(function.parents, function.backward_once(grad), strict=True):
                if parent.requires_grad and parent_grad is not None:
                    known = grads.get(id(parent))
                    grads[id(parent)] = parent_grad if known is None else known + parent_grad


def as_tensor(x):
    """``x`` itself if it is a Tensor, else a Tensor of it; a uint8 array is pixels, 8-bit codes of value / 256."""
    if isinstance(x, Tensor):
        return x
    x = np.asarray(x)
    return Tensor(Codes(x, 8, "unsigned", 1 / 256) if x.dtype == np.uint8 else x)


def _operand(value, like):
    if isinstance(value, Tensor):
        return value
    if np.asarray(value).dtype.kind not in "fiub":
        raise TypeError(f"a tensor can be combined with tensors, numbers and arrays of numbers, got {type(value).__name__}")
    return Tensor(np.asarray(value, like.data.dtype))


def _in_order(tensor):
    """Tensors that require a gradient, each after everything it was computed from. (No recursion: nets can be deep.)"""
    order, seen, stack = [], set(), [(tensor, False)]
    while stack:
        node, finished = stack.pop()
        if finished:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if node._function is not None:
                node._function.check_alive()
                stack += [(parent, False) for parent in node._function.parents if parent.requires_grad]
    return order


class Function:
    """One call of a differentiable operation.

    Subclasses define ``forward(*arrays, **options)``, which may keep what backward needs as attributes of self, and
    ``backward(grad_output)``, which returns one gradient (or None) for each input. An input arrives as Codes where the
    tensor holds codes and the class says ``takes_codes``, else as a float array; ``forward`` may return either.
    ``self.needs_grad`` tells for each input whether its gradient is wanted.

    ``Function.current_scope`` is a hook, called in ``apply``: it returns a function that makes the context manager in which
    ``backward`` runs. ``execution`` sets it, so that the log has a layer's backward under that layer's name.
    """

    takes_codes = False
    current_scope = staticmethod(lambda: nullcontext)

    @classmethod
    def apply(cls, *tensors, **options):
        """Run the operation on tensors; keyword options go to ``forward`` as they are."""
        function = cls()
        function.scope = cls.current_scope()
        function.needs_grad = [tensor.requires_grad for tensor in tensors]
        result = Tensor(function.forward(*(t.raw if cls.takes_codes else t.data for t in tensors), **options))
        if _recording.get() and any(function.needs_grad):
            result.requires_grad = True
            result._function = function
            function.parents = tensors
        return result

    def backward_once(self, grad_output):
        """Run ``backward`` and drop everything kept for it."""
        self.check_alive()
        with self.scope():
            grads = self.backward(grad_output)
        self.__dict__ = {"parents": None}
        return grads if isinstance(grads, tuple) else (grads,)

    def check_alive(self):
        if self.parents is None:
            raise RuntimeError("backward a second time: the first pass freed what the graph had kept; run forward again")

    def forward(self, *arrays, **options):
        raise NotImplementedError

    def backward(self, grad_output):
        raise NotImplementedError


def _unbroadcast(grad, shape):
    """Sum a gradient over the axes along which its input was repeated."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    return grad.sum(axis=tuple(i for i, size in enumerate(shape) if size == 1 and grad.shape[i] != 1), keepdims=True)


class Add(Function):
    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a + b

    def backward(self, grad_output):
        return tuple(_unbroadcast(grad_output, shape) for shape in self.shapes)


class Subtract(Function):
    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, grad_output):
        return _unbroadcast(grad_output, self.shapes[0]), _unbroadcast(-grad_output, self.shapes[1])


class Multiply(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def backward(self, grad_output):
        return _unbroadcast(grad_output * self.b, self.a.shape), _unbroadcast(grad_output * self.a, self.b.shape)


class Divide(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        return a / b

    def backward(self, grad_output):
        by_a = grad_output / self.b
        return _unbroadcast(by_a, self.a.shape), _unbroadcast(-by_a * self.a / self.b, self.b.shape)


class MatMul(Function):
    def forward(self, a, b):
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"@ takes matrices (N, D) and (D, F), got shapes {a.shape} and {b.shape}")
        self.a, self.b = a, b
        return a @ b

    def backward(self, grad_output):
        return grad_output @ self.b.T, self.a.T @ grad_output


class Index(Function):
    """x[index], whatever NumPy takes as one; an element taken several times gets the sum of its gradients. Codes stay codes."""

    takes_codes = True

    def forward(self, x, index):
        self.shape, self.index = x.shape, index
        if not isinstance(x, Codes):
            return x[index]
        if np.ndim(x.scale):
            raise ValueError("codes with an array of scales cannot be indexed: decode them first")
        return x.with_values(x.values[index])

    def backward(self, grad_output):
        grad = np.zeros(self.shape, grad_output.dtype)
        np.add.at(grad, self.index, grad_output)
        return grad


class Sum(Function):
    def forward(self, x):
        self.shape = x.shape
        return x.sum()

    def backward(self, grad_output):
        return np.broadcast_to(grad_output, self.shape).copy()


class Reshape(Function):
    """Another shape; codes stay codes."""

    takes_codes = True

    def forward(self, x, shape):
        self.shape = x.shape
        return x.reshape(shape)

    def backward(self, grad_output):
        return grad_output.reshape(self.shape)
