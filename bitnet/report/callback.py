"""What looks on while a network trains."""


class Callback:
    """What a ``Trainer`` calls while it trains. Gradients of the step are still there in ``on_step``."""

    def measure(self, trainer):
        """What to add to the record of an epoch before it is saved: a dict. The network must be left as it was."""
        return {}

    def on_step(self, trainer):
        """After the update of a step; ``trainer.loss`` is its loss."""

    def on_epoch(self, trainer, record):
        """After an epoch was evaluated and saved; ``record`` is its line of the history."""

    def on_end(self, trainer):
        """When training ends: finished, stopped, or by an error."""
