"""Arrays in, arrays out: everything that is compiled."""

from bitnet.kernels.memory import keep_freed_memory

keep_freed_memory()
