"""Network Sketching (Guo, Yao, Zhao and Chen, arXiv:1706.02021): a filter as a sum of few sign vectors, each with a scale."""

import numpy as np

from bitnet.checks import truth, whole
from bitnet.codes import Codes
from bitnet.quantizers.base import Quantizer


def sketch(weight, m, refined=True):
    """Sign vectors and scales of which each filter is about the sum: W ~ sum over j < m of scales[j] * signs[j].

    With the residual R, at first the filter itself, of t numbers, and sign(0) = +1:

        direct    B_j = sign(R);  a_j = <B_j, R> / t, the mean of |R|;  R <- R - a_j B_j
        refined   B_j = sign(R);  all scales anew, a = (B'B)^-1 B'W;    R <- W - B a

    Direct, |R|^2 falls by a factor of at most 1 - 1/t a step; refined, the factor is at most 1 - 1/(t - u'(B'B)^-1 u), u being
    the inner products of B_j with the vectors before it. The inverse grows by bordering. A vector that depends on those before
    it (then R is 0 already) gets the scale 0; a scale below 0 is made positive, and its vector turned.

    The formulas are the paper's from memory; the bounds were derived again and are tested.

    Parameters
    ----------
    weight : float array (..., filters)
    m : number of vectors
    refined : bool

    Returns
    -------
    signs : bool array (m, ..., filters), True for +1
    scales : float64 array (m, filters), none below 0
    """
    w = np.asarray(weight, np.float64).reshape(-1, np.shape(weight)[-1])
    t, filters = w.shape
    signs, scales = np.empty((m, t, filters), bool), np.zeros((m, filters))
    inverse, inner, rest = np.zeros((filters, m, m)), np.zeros((filters, m)), w.copy()
    for j in range(m):
        signs[j] = rest >= 0
        vector = np.where(signs[j], 1.0, -1.0)
        if not refined:
            scales[j] = np.abs(rest).mean(axis=0)
            rest -= scales[j] * vector
            continue
        u = np.stack([np.where(signs[i], vector, -vector).sum(axis=0) for i in range(j)] or [np.zeros(filters)], -1)
        old = inverse[:, :max(j, 1), :max(j, 1)]
        gu = _product(old, u)
        outside = t - sum(u[:, i] * gu[:, i] for i in range(u.shape[1]))
        new = outside > 1e-9 * t
        share = np.where(new, 1 / np.where(new, outside, 1), 0)[:, None]
        old += share[..., None] * gu[:, :, None] * gu[:, None, :]
        inverse[:, j, :gu.shape[1]] = inverse[:, :gu.shape[1], j] = -share * gu
        inverse[:, j, j] = share[:, 0]
        inner[:, j] = (vector * w).sum(axis=0)
        scales[:j + 1] = _product(inverse[:, :j + 1, :j + 1], inner[:, :j + 1]).T
        rest = w - sum(scales[i] * np.where(signs[i], 1.0, -1.0) for i in range(j + 1))
    signs ^= (scales < 0)[:, None]
    return signs.reshape(m, *np.shape(weight)), np.abs(scales)


def _product(matrices, vectors):
    """Matrices (filters, i, j) times vectors (filters, j), added in the order of j: (filters, i)."""
    return sum(matrices[:, :, j] * vectors[:, j, None] for j in range(vectors.shape[1]))


class SketchWeight(Quantizer):
    """Weights as sums of m sign vectors, each with a scale a filter: see ``sketch``.

    Forward:  w_q = sum over j < m of a_j * B_j, made anew from the latent weight each time
    Backward: dw = dw_q, signs and scales being constants

    On codes, a layer is m products of one bit. With m = 1 this is the Binary-Weight-Network's filter (``XNORWeight``), but for
    its gradient.

    Parameters
    ----------
    m : number of vectors
    refined : fit all scales anew with each vector

    Raises
    ------
    ValueError : an m that is no whole number from 1 to 4,096.
    """

    one_scale = False

    def __init__(self, m=3, refined=True):
        super().__init__(1)
        self.m, self.refined = whole("the number of vectors of a sketch", m, 1, 1 << 12), truth("refined", refined)

    def encode_and_save(self, array):
        signs, scales = sketch(array, self.m, self.refined)
        return Codes(signs.view(np.uint8), 1, "bipolar", scales, "term"), None
