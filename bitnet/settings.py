"""What holds inside a block: ``with no_grad():``, ``with use_kernels("popcount"):`` and their like.

Every such switch is one ``Setting``. Its value belongs to a thread (and to an asynchronous task): a thread that evaluates
without gradients switches nothing off in another one, which starts with the default.
"""

from contextlib import contextmanager
from contextvars import ContextVar


class Setting:
    """A value that may be another one inside a block.

        recording = Setting("recording", True)
        recording.value                 # True
        with recording.set_to(False):
            recording.value             # False, here and in what is called from here

    ``value`` may also be set for good, for this thread.
    """

    def __init__(self, name, default=None):
        self._variable = ContextVar(name, default=default)
        self.get, self.put = self._variable.get, self._variable.set  # the quick ways

    @property
    def value(self):
        return self._variable.get()

    @value.setter
    def value(self, value):
        self._variable.set(value)

    @contextmanager
    def set_to(self, value):
        """Inside the block the value is this one; yields it."""
        previous = self._variable.get()
        self._variable.set(value)
        try:
            yield value
        finally:
            self._variable.set(previous)
