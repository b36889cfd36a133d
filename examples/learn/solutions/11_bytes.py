"""Solutions of chapter 11."""

import numpy as np


def quicker(channels, w_bits, a_bits, ratio):
    return "bits" if channels / (w_bits * a_bits) > 4 * ratio else "bytes"


def pooled_late(sums, sign, steps):
    """A rising staircase keeps the order, so the code of the largest is the largest code."""
    codes = ((sums * sign)[..., None, :] >= steps).sum(axis=-2).astype(np.uint8)
    N, H, W, C = codes.shape[0], codes.shape[1] // 2, codes.shape[2] // 2, codes.shape[3]
    return codes[:, :2 * H, :2 * W].reshape(N, H, 2, W, 2, C).max(axis=(2, 4))
