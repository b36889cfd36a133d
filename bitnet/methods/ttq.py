"""Trained Ternary Quantization (Zhu, Han, Mao and Dally, arXiv:1612.01064)."""

from bitnet.methods.base import Method
from bitnet.quantizers import TTQWeight


class TTQ(Method):
    """Trained Ternary Quantization (arXiv:1612.01064): weights in {-W_n, 0, W_p}, both learned."""

    name, title, paper = "ttq", "Trained Ternary Quantization", "1612.01064"
    own_bits, bare_first = (2, 32, 32), True  # on DoReFa-Net's AlexNet, as its authors' program has it
    published = {"alexnet": (42.0, "tensorpack's AlexNet")}
    note = "published on CIFAR-10 and ImageNet only"

    def weight(self):
        return TTQWeight()
