"""Switches that hold inside a ``with`` statement: ``with no_grad():``, ``with use_kernels("popcount"):`` and others.

Each is a ``Setting``. A thread (or an asynchronous task) has values of its own and starts with the defaults: no thread switches
anything off in another one.
"""

from contextlib import contextmanager
from contextvars import ContextVar


class Setting:
    """A value that a ``with`` statement changes for what runs inside it.

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
        """Inside ``with`` this is the value; it is what ``as`` gives."""
        previous = self._variable.get()
        self._variable.set(value)
        try:
            yield value
        finally:
            self._variable.set(previous)
