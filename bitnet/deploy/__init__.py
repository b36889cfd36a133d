"""Networks for inference: turned into stages, on integers wherever the arithmetic allows it, in files that hold only data.

    network = freeze(net)          a FrozenNetwork; its codes and logits are those of net.eval(), bit for bit
    network(images)                logits
    network.save("net.npz")        load_frozen("net.npz")
"""

from bitnet.deploy.files import load_frozen, size_report
from bitnet.deploy.freezing import Reader, freeze, reads
from bitnet.deploy.network import FrozenNetwork

__all__ = ["FrozenNetwork", "Reader", "freeze", "load_frozen", "reads", "size_report"]
