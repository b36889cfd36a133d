"""Network Sketching (Guo, Yao, Zhao and Chen, arXiv:1706.02021): trained filters become sums of few sign vectors.

The associative evaluation, below, computes the same integers with fewer additions: two sign vectors that differ in few places
have sums that differ by few terms. ``spanning_tree`` finds whom to start from; ``sums_along`` computes so and is exact.
"""

from typing import NamedTuple

import numpy as np

from bitnet import execution
from bitnet.checks import truth
from bitnet.codes import Codes
from bitnet.methods.base import Method
from bitnet.methods.conversion import estimate_norms, places_with_real_weights, quantize_inputs
from bitnet.quantizers import SketchWeight


class Sketching(Method):
    """Network Sketching (arXiv:1706.02021): filters as sums of m sign vectors with scales of their own.

    ``convert`` takes a trained network whose weights are real and sketches all its layers; to go on training it afterwards is
    the paper's fine-tuning: the latent filters are sketched anew each step, and get the gradient at their sketches. ``apply``
    begins with that. W is the number of vectors m. With fewer than 32 bits for A, an extension, activations become codes
    (``conversion.quantize_inputs``), and a layer is m products of one bit. That all layers are sketched, the first and the last
    one too, is this project's choice; and so is that batch norms are estimated anew on the images that ``convert`` gets, which
    matters where vectors are few: with one of them a LeNet for MNIST errs in 11 % of the images, without in 81 %.

    Parameters
    ----------
    bits : W, A, G
    refined : fit all scales of a filter anew with each vector, see ``quantizers.sketch``
    norms : estimate batch norms anew after sketching
    """

    name, title, paper = "sketching", "Network Sketching", "1706.02021"
    own_bits, free, ends = (3, 32, 32), "W", True
    note = "made for networks that are trained already (examples/convert.py); trained from scratch here"

    def __init__(self, *bits, refined=True, norms=True):
        super().__init__(*bits)
        self.refined, self.norms = truth("refined", refined), truth("norms", norms)

    def options(self):
        return {"bits": self.bits, "refined": self.refined, "norms": self.norms}

    @classmethod
    def rebuild(cls, bits, refined=True, norms=True):
        return cls(*bits, refined=refined, norms=norms)

    def weight(self):
        return SketchWeight(self.bits[0], self.refined)

    def convert(self, tree, data):
        places = places_with_real_weights(tree, self.name)
        for place in places if self.bits[0] != 32 else ():
            place.layer.quantize(self.weight(), place.layer.input_quantizer, self.gradient())
        if self.norms:
            estimate_norms(tree, data.images)
        quantize_inputs(tree, places, self.bits[1], data.images)
        tree.method = self
        return tree


class SpanningTree(NamedTuple):
    """In which order sign vectors are evaluated, each but the first from one before it.

    Attributes
    ----------
    order : int array, of the vectors; parents : int array by vector, of the first one itself
    turned : bool array by vector: start from minus its parent
    differing : int array by vector: in how many places it then differs; of the first one, its length: it is summed as it is
    """

    order: np.ndarray
    parents: np.ndarray
    turned: np.ndarray
    differing: np.ndarray

    @property
    def additions(self):
        """Additions for one pixel of all sums; the length times the number of vectors without a tree."""
        return int(self.differing.sum())


def spanning_tree(vectors):
    """The tree over sign vectors with the fewest additions: a minimum spanning tree by the number of differing places, where a
    vector may be turned.

    Parameters
    ----------
    vectors : bool array (length, vectors)

    Returns
    -------
    tree : SpanningTree, from vector 0 on
    """
    from scipy.sparse import csgraph

    length, count = vectors.shape
    signs = np.where(vectors, np.float32(1), np.float32(-1))
    inner = np.rint(signs.T @ signs).astype(np.int64)  # whole numbers below 2**24: exact, whoever adds them
    distances = (length - np.abs(inner)) // 2
    # 0 is no edge to scipy, and to add 1 to all edges changes no minimum spanning tree
    tree = csgraph.minimum_spanning_tree(distances + 1)
    order, parents = csgraph.breadth_first_order(tree, 0, directed=False)
    parents[0] = 0
    turned = inner[np.arange(count), parents] < 0
    differing = distances[np.arange(count), parents]
    differing[0], turned[0] = length, False
    return SpanningTree(order, parents, turned, differing)


def sums_along(tree, x, vectors, conv):
    """Integer convolutions of codes with sign vectors, along a tree.

        S_root = x * B_root;  S_child = +-S_parent + 2 * (x * D),  D = (B_child -+ B_parent) / 2 in {-1, 0, 1}

    On popcount kernels this saves nothing, since a zero in D costs them as much as a one; on hardware that adds, it does.

    Parameters
    ----------
    tree : SpanningTree
    x : Codes (N, H, W, C); vectors : bool array (kh, kw, C / groups, vectors); conv : Conv with as many outputs as vectors

    Returns
    -------
    sums : int64 array (N, OH, OW, vectors)
    """
    signs = np.where(vectors, 1, -1)
    parts = signs[..., tree.parents] * np.where(tree.turned, -1, 1)
    parts[..., tree.order[0]] = -signs[..., tree.order[0]]  # (B + B) / 2: the first one as it is
    parts = (signs - parts) // 2
    differences = Codes((parts + 1).astype(np.uint8), 2, "ternary")
    added = execution.forward_accum(x, differences, conv).astype(np.int64)
    sums = np.empty_like(added)
    sums[..., tree.order[0]] = added[..., tree.order[0]]
    for vector in tree.order[1:]:
        start = sums[..., tree.parents[vector]]
        sums[..., vector] = (-start if tree.turned[vector] else start) + 2 * added[..., vector]
    return sums
