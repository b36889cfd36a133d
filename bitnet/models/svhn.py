"""The SVHN network of DoReFa-Net (arXiv:1606.06160, section 3.1)."""

import numpy as np

from bitnet.layers import Block, Flatten, Images, Linear, Sequential
from bitnet.networks import network

WIDTHS = {"A": 1.0, "B": 0.5, "C": 0.25, "D": 0.125}


@network("svhn")
def svhn_network(model="A", seed=0):
    """The network in float, for 40 x 40 x 3 images; ``models.svhn`` gives it in bits.

    The first block has a bias instead of batch norm. Models B, C and D have 1/2, 1/4 and 1/8 of model A's channels.

    Parameters
    ----------
    model : "A", "B", "C" or "D"
    seed : of the initial weights

    Raises
    ------
    ValueError : no such model.
    """
    if model not in WIDTHS:
        raise ValueError(f"the model must be one of {', '.join(WIDTHS)}, got {model!r}")
    rng = np.random.default_rng(seed)
    c0, c1, c2, c3, c4, c5, c6 = (int(channels * WIDTHS[model]) for channels in (48, 64, 64, 128, 128, 128, 512))
    return Sequential(
        images=Images(40, 40, 3),
        conv0=Block(3, c0, 5, pool=2, norm=False, rng=rng),          # 36 x 36, then 18 x 18
        conv1=Block(c0, c1, 3, padding="same", rng=rng),             # 18 x 18
        conv2=Block(c1, c2, 3, padding="same", pool=2, rng=rng),     # 18 x 18, then 9 x 9
        conv3=Block(c2, c3, 3, rng=rng),                             # 7 x 7
        conv4=Block(c3, c4, 3, padding="same", rng=rng),             # 7 x 7
        conv5=Block(c4, c5, 3, drop=0.5, rng=rng),                   # 5 x 5
        conv6=Block(c5, c6, 5, rng=rng),                             # 1 x 1
        flatten=Flatten(),
        fc=Linear(c6, 10, weight_decay=1e-7, rng=rng))
