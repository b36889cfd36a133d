"""Frozen networks: what runs stages, and what lies in a file.

A file is an .npz that NumPy reads alone (``numpy.load``), and holds nothing but data. ``network`` is a JSON text:

    {"format": "bitnet frozen network", "version": 2, "input": [H, W, C], "images": true, "classes": null, "stages": [...]}

and, where it is known, "pictures": in which manner pictures were prepared, see ``datasets.prepare_for``.
``images`` tells that the inputs are images: bytes, or floats from 0 to 1. ``classes`` are texts, or null. A stage is
{"kind": ..., "name": ..., options}; the stages run one after the other, and a stage "join" holds two lists of further ones.
What kinds there are, with their options and arrays, is told by the classes in ``stages`` and ``products``; an array is called
``name.part``, and its type and shape follow from the JSON text.

Version 1 was written for the SVHN network alone: see ``files``.
"""

import io
import json
from collections import Counter

import numpy as np

from bitnet.codes import Codes
from bitnet.deploy.products import Product
from bitnet.deploy.stages import Chain, Wire, every, shape_of
from bitnet.storage.atomic import write_atomically
from bitnet.tensor import Tensor, as_tensor
from bitnet.text import columns, size_text

FORMAT, VERSION = "bitnet frozen network", 2
ONE = np.float32(1).view(np.uint32)  # the bits of floats from 0 to 1, and of no others, are integers up to this


class Input:
    """Where inputs enter: checks them, and makes them float32, or codes of pixels."""

    def __init__(self, shape, images):
        self.shape, self.images = shape, images

    def check(self, x):
        """ValueError where an array or codes are not what the network takes."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"the network takes {'images' if self.images else 'arrays'} of shape "
                             f"(N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        if not isinstance(x, Codes) and x.dtype.char not in "fd":
            raise ValueError(f"the network takes pixels of uint8, or floats of 32 or 64 bits, got {x.dtype}")
        return x

    def run(self, x):
        if isinstance(x, Codes):
            return x
        x = np.ascontiguousarray(x, np.float32)
        if np.maximum.reduce(x.view(np.uint32), axis=None) <= ONE:
            return x  # the usual case, seen in one walk
        low, high = x.min(), x.max()  # NaN where there is one
        if self.images and not (low >= 0 and high <= 1):
            raise ValueError(f"the network takes floats from 0 to 1, which are pixels / 256, got {low:g} to {high:g}")
        if not -np.inf < low <= high < np.inf:
            raise ValueError(f"the network takes finite numbers, got {low:g} to {high:g}")
        return x


class FrozenNetwork:
    """A network made of stages; ``bitnet.freeze`` makes one, ``bitnet.load`` reads one.

    Called with images (N, H, W, C), uint8 or floats from 0 to 1, it gives a Tensor of logits (N, classes).

    Attributes
    ----------
    input_shape : of one sample; images : are inputs images, with pixels from 0 to 1
    stages : list of Stage
    classes : names of the outputs, or None
    pictures : in which manner pictures are prepared for it (``datasets.prepare_for``), or None
    """

    training = False

    def __init__(self, input_shape, stages, images=True, classes=None, pictures=None):
        self.input_shape, self.images, self.stages = shape_of("the input", input_shape), images, list(stages)
        self.output_shape = self.stages[-1].after.shape if self.stages else self.input_shape
        self.classes = None if classes is None else [str(one) for one in classes]
        if self.classes is not None and self.output_shape[-1] != len(self.classes):
            raise ValueError(f"expected the names of {self.output_shape[-1]} classes, got {len(self.classes)}")
        self.pictures = None if pictures is None else str(pictures)
        twice = [name for name, count in Counter(stage.name for stage in every(self.stages)).items() if count > 1]
        if twice:
            raise ValueError(f"expected stages of different names, got two of the name {twice[0]!r}")
        self.input = Input(self.input_shape, images)
        self.chain = Chain(self.stages, self.input.run)

    def fill(self, arrays):
        """Give all stages their arrays."""
        for stage in self.stages:
            stage.fill(arrays)
        self.chain = Chain(self.stages, self.input.run)  # programs know the arrays of before
        return self

    @property
    def layout(self):
        """The arrays of all stages, {name: (dtype, shape)}."""
        return {name: kind for stage in self.stages for name, kind in stage.layout.items()}

    def eval(self):
        """Nothing to do: a frozen network only evaluates."""
        return self

    def __call__(self, x):
        x = self.input.check(as_tensor(x).raw)
        if x.shape[0] == 0:
            return Tensor(np.zeros((0, *self.output_shape), np.float32))
        return Tensor(self.chain.run(x))

    def codes(self, x):
        """Codes that leave stages, for a few images: {name of the stage: Codes}."""
        found = {}

        def visit(stage, y):
            if isinstance(y, Codes):
                found[stage.name] = y

        self.chain.walk(self.input.check(as_tensor(x).raw), visit)
        return found

    def describe(self):
        """The network in terms of JSON, without its arrays."""
        return {"format": FORMAT, "version": VERSION, "input": list(self.input_shape), "images": self.images,
                "classes": self.classes, **({} if self.pictures is None else {"pictures": self.pictures}),
                "stages": [stage.describe() for stage in self.stages]}

    def save(self, path):
        """Write the network to ``path`` (.npz); see the head of this file for what is in it.

        Raises
        ------
        OSError : the file cannot be written; an older file of that name is kept.
        """
        arrays = {name: array for stage in self.stages for name, array in stage.arrays.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, network=np.array(json.dumps(self.describe())), **arrays)
        write_atomically(path, buffer.getbuffer())

    def summary(self, shape=None):
        """A line for each stage: what it is, bits of weights and of what meets them, what leaves, bytes.

        A shape is that of a sample, as ``Module.summary`` takes it; ValueError where the network takes another one.
        """
        if shape is not None and tuple(shape) != self.input_shape:
            raise ValueError(f"this network takes {self.input_shape}, got the shape {tuple(shape)}")
        rows = [["stage", "what", "W,A", "gives", "bytes"]]
        for stage in every(self.stages):
            widths = ",".join(map(str, stage.widths)) if isinstance(stage, Product) else ""
            size = "" if stage.inner() else size_text(sum(array.nbytes for array in stage.arrays.values()))
            rows.append([stage.name, stage.about(), widths, str(stage.after), size])
        return columns(rows, left=(0, 1, 2, 3))

    def __repr__(self):
        return f"FrozenNetwork of {Wire(self.input_shape)}\n{self.summary()}"
