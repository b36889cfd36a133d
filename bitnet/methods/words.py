"""Binary kernels from a small codebook of 3 x 3 words: selected (arXiv:2303.14470), learned (arXiv:2110.09195) or random."""

from bitnet.checks import whole
from bitnet.layers import Conv2d
from bitnet.methods.base import Method, Recipe, falling
from bitnet.quantizers import BNNActivation, KernelWords, LearnedWords, SelectedWords, XNORWeight

FIRST_SEED = 1000  # of the words of an untrained network's layers, where no seed is given


class RandomWords(Method):
    """3 x 3 kernels from words that were drawn at random and stay: what a learned codebook is compared with.

    Inner weights are binary with a scale a filter, those of 3 x 3 from n words; activations are signs; the first and the last
    layer are float.

    Parameters
    ----------
    bits : W, A, G
    words : n, 1 to 512
    """

    name, title = "words_random", "Kernels from random words"
    own_bits, order, clip = (1, 1, 32), "conv pool norm act", 1.0
    recipe = Recipe(network="vgg", schedule=falling(1e-3, 1e-5))
    note = "log2(n) bits a kernel of 3 x 3, n = 64"
    quantizer = KernelWords

    def __init__(self, *bits, words=64):
        super().__init__(*bits)
        self.words = whole("the number of words", words, 1, 512)

    def options(self):
        return {"bits": self.bits, "words": self.words}

    @classmethod
    def rebuild(cls, bits, words=64):
        return cls(*bits, words=words)

    def weight(self):
        return XNORWeight()

    def activation(self):
        return BNNActivation()

    def layer(self, layer, place, rng):
        super().layer(layer, place, rng)
        if place.quantized and isinstance(layer, Conv2d) and layer.weight.shape[:2] == (3, 3):
            self.drawn += 1
            seed = FIRST_SEED + self.drawn if rng is None else int(rng.integers(1 << 28))
            layer.quantize(self.quantizer(self.words, seed=seed), layer.input_quantizer, layer.grad_quantizer)

    def apply(self, tree, seed=None):
        self.drawn = 0
        return super().apply(tree, seed)


class KernelSelection(RandomWords):
    """Sparse Kernel Selection (arXiv:2303.14470): words are selected by a learned permutation, without repetition."""

    name, title, paper = "kernel_selection", "Sparse Kernel Selection", "2303.14470"
    note = "64 words; no program is public: temperature, noise and steps between selections are this project's"
    quantizer = SelectedWords


class SubBit(RandomWords):
    """Sub-bit Neural Networks (arXiv:2110.09195): words are the signs of learned patterns."""

    name, title, paper = "subbit", "Sub-bit Neural Network", "2110.09195"
    note = "64 words; without the authors' two steps of training and their teacher"
    quantizer = LearnedWords
