"""How often each word of 3 x 3 signs comes in a binary network.

That few words are frequent in trained networks is why a small codebook may be enough (Sparse Kernel Selection,
arXiv:2303.14470). A network that has hardly trained has nearly all words nearly as often as chance has them.
"""

import numpy as np

from bitnet.layers import Weighted
from bitnet.quantizers.words import COUNT, words_of
from bitnet.report.pictures import FAINT, new_figure, own_style, write_figure
from bitnet.tensor import no_grad


def word_counts(network):
    """For each layer of binary 3 x 3 kernels how often each of the 512 words comes: {name: int64 array (512,)}."""
    counts = {}
    for name, module in network.named_modules().items():
        if isinstance(module, Weighted) and module.weight_quantizer and module.weight.shape[:2] == (3, 3):
            with no_grad():
                codes = module.quantized_weight().codes
            if codes is not None and (codes.bits, codes.encoding) == (1, "bipolar") and len(codes.shape) == 4:
                counts[name] = np.bincount(words_of(2.0 * codes.values - 1), minlength=COUNT)
    return counts


@own_style
def draw_words(path, network, title):
    """Shares of the words by rank, a line for each layer, both axes logarithmic.

    Raises
    ------
    ValueError : no layer of the network has binary 3 x 3 kernels.
    """
    counts = word_counts(network)
    if not counts:
        raise ValueError("expected a network with binary 3 x 3 kernels, found none in it")
    figure, (axes,) = new_figure(title, 7.5, 4.5)
    for name, count in counts.items():
        share = np.sort(count[count > 0])[::-1] / count.sum()
        half = int(np.searchsorted(np.cumsum(share), 0.5)) + 1
        axes.plot(np.arange(1, len(share) + 1), 100 * share, linewidth=1.6,
                  label=f"{name}: {len(share)} words, {half} of them half of {count.sum():,} kernels")
    axes.axhline(100 / COUNT, color=FAINT, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel="words by frequency (grey: all equally often)", ylabel="share of kernels, %")
    axes.legend(frameon=False, fontsize=8)
    write_figure(figure, path)
