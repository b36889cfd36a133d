"""What happens to latent weights after an optimizer's step, in one walk over memory."""

from bitnet.kernels import threads
from bitnet.kernels.compile import kernel
from bitnet.kernels.elementwise import BLOCK
from bitnet.kernels.vectors import at, put


@kernel
def _scaled_clip(start, stop, after, before, factor, bound):
    for i in range(start * 16384, min(stop * 16384, after.size)):
        value = at(before, i) + factor * (at(after, i) - at(before, i))
        put(after, i, min(max(value, -bound), bound))


def scaled_clip(after, before, factor, bound):
    """``after[...] = clip(before + factor * (after - before), -bound, bound)``, in place."""
    number = after.dtype.type
    threads.run(_scaled_clip, -(-after.size // BLOCK), after.reshape(-1), before.reshape(-1), number(factor), number(bound))
