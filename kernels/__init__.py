"""Arrays in, arrays out: everything that is compiled."""

from bitnet.kernels.machine import threads
from bitnet.kernels.machine.memory import keep_freed_memory

__all__ = ["threads"]

keep_freed_memory()
