"""How a training is asked to stop."""

import signal
import threading


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request, so that the step under way ends; a second Ctrl-C ends at once.

        with StopRequest() as stop:
            finished = trainer.run(stop)
        stop.signal     # None, or the number of the signal that came

    Signals reach the main thread alone: in another one this never asks to stop.
    """

    def __init__(self):
        self.signal = None

    def __call__(self):
        return self.signal is not None

    def __enter__(self):
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
