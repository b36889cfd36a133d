"""The training loop, and how it stops: at its end, on request, or where a number stops being finite.

    loader -> train_step -> ... -> evaluate -> history -> checkpoint        once an epoch

Everything that a step depends on is in the checkpoint, so a run that was interrupted, even by a kill in the middle of
an epoch, repeats bit for bit what it would have done. Callbacks look on: they change nothing of that.
"""

import contextlib
import hashlib
import json
import math
import signal
import time

import numpy as np

from bitnet import execution, functional, optimizers, random
from bitnet.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from bitnet.datasets import Loader
from bitnet.kernels.machine.arrays import all_finite
from bitnet.layers import unfused
from bitnet.tensor import Tensor, no_grad


class NonFiniteError(ArithmeticError):
    """A loss, gradient or parameter is infinite or not a number. One sentence naming the step and where it began."""


class Callback:
    """What a :class:`Trainer` calls while it trains. Gradients of the step are still there in ``on_step``."""

    def measure(self, trainer):
        """What to add to the record of an epoch before it is saved: a dict. The model must be left as it was."""
        return {}

    def on_step(self, trainer):
        """After the update of a step; ``trainer.loss`` is its loss."""

    def on_epoch(self, trainer, record):
        """After an epoch was evaluated and saved; ``record`` is its line of the history."""

    def on_end(self, trainer):
        """When training ends: finished, stopped, or by an error."""


class Trainer:
    """Trains a model on digits.

    Parameters
    ----------
    model : Module
    train, test : Digits
    epochs : int                     # of the whole run, those before a resume included
    batch_size : int
    optimizer : Optimizer or None    # None: Adam with the step 1e-5 of the reference recipe
    schedule : callable or None      # 0-based epoch -> learning rate; None: the optimizer's own, unchanged
    seed : int                       # order of the digits, augmentation, dropout and gradient noise
    augment : Augmentation or None
    checkpoint : str, Path or None   # where to save; None: nowhere
    save_every : int                 # steps between saves inside an epoch; 0: at the end of an epoch only
    config : dict or None            # JSON-able; what of the run's configuration must not change on a resume
    notes : dict or None             # JSON-able; what may change: kept in the checkpoint, compared with nothing
    callbacks : sequence of Callback
    loss : callable or None          # (logits, batch, trainer) -> loss; None: softmax cross entropy with the labels
    prepare : callable or None       # called with the trainer before every step: what depends on ``trainer.progress``
    Attributes
    ----------
    epoch, step : int                # epochs completed, and steps done in the one after them
    history : list of dict           # a record an epoch: the lines of metrics.jsonl
    evaluation : Evaluation or None  # the latest of the test set
    """

    def __init__(
        self, model, train, test, *, epochs, batch_size=32, optimizer=None, schedule=None, seed=0, augment=None,
        checkpoint=None, save_every=0, config=None, notes=None, callbacks=(), loss=None, prepare=None,
    ):  # fmt: skip
        self.model, self.test, self.epochs = model, test, epochs
        self.loader = Loader(train, batch_size, seed=seed, augment=augment)
        self.optimizer = optimizer or optimizers.Adam(model.parameters(), lr=1e-3, eps=1e-5)
        self.schedule = schedule
        self.checkpoint, self.save_every, self.callbacks = checkpoint, save_every, list(callbacks)
        self.notes, self.loss_function, self.prepare = notes or {}, loss or _cross_entropy, prepare
        self.config = {
            **(config or {}), "batch_size": batch_size, "seed": seed,
            "training_data": fingerprint(train), "test_data": fingerprint(test),
        }  # fmt: skip
        self.epoch = self.step = 0
        self.history, self.evaluation, self.loss = [], None, math.nan
        self.loss_sum, self.correct, self.seen, self.step_seconds = 0.0, 0, 0, 0.0  # of the epoch under way
        self._seconds_before, self._started = 0.0, None
        random.seed(seed)

    def run(self, stop=lambda: False):
        """Train until all epochs are done.

        Parameters
        ----------
        stop : callable   # asked after every step; once true the run saves and returns
        Returns
        -------
        finished : bool
        Raises
        ------
        NonFiniteError : training diverged; the last checkpoint is kept.
        OSError : a checkpoint cannot be written; the last one is kept.
        """
        self._started = time.perf_counter()
        try:
            # NumPy's warnings would tell of divergence first, without saying where: NonFiniteError does
            with np.errstate(over="ignore", invalid="ignore"):
                return self._run(stop)
        finally:
            self._seconds_before, self._started = self.seconds, None
            for callback in self.callbacks:
                callback.on_end(self)

    def _run(self, stop):
        while self.epoch < self.epochs:
            if self.schedule is not None:
                self.optimizer.lr = self.schedule(self.epoch)
            self.model.train()
            with contextlib.closing(self.loader.epoch(self.epoch, self.step)) as batches:
                started = time.perf_counter()
                for batch in batches:
                    self.train_step(batch)
                    self.step_seconds += time.perf_counter() - started
                    for callback in self.callbacks:
                        callback.on_step(self)
                    if stop():
                        self.save()
                        return False
                    if self.save_every and self.step % self.save_every == 0:
                        self.save()
                    started = time.perf_counter()  # saves and callbacks are not training

            self.evaluation = evaluate(self.model, self.test, stop=stop)
            if self.evaluation is None:
                self.save()  # all steps done: the resumed run starts with the evaluation
                return False
            record = self._end_epoch()
            self.save()
            for callback in self.callbacks:
                callback.on_epoch(self, record)
        return True

    @execution.layer("rest of the step")
    def train_step(self, batch):
        """Forward, backward and update for one batch."""
        if self.prepare is not None:
            self.prepare(self)
        noise = random.get_state()
        self.optimizer.zero_grad()
        logits = self.model(batch.images)
        loss = self.loss_function(logits, batch, self)
        self.loss = float(loss.data)
        # a quantizer turns NaN into some code: batch norm's statistics may tell of trouble that the loss does not see
        if not math.isfinite(self.loss) or not all_finite(*self.model.named_buffers().values()):
            origin = find_non_finite(self.model, batch.images, noise)
            raise NonFiniteError(f"training diverged in {self.where} with a loss of {self.loss}; {origin}")
        loss.backward()
        parameters = self.model.named_parameters()
        grads = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
        if not all_finite(*grads.values()):
            name = next(name for name in reversed(grads) if not all_finite(grads[name]))  # backward begins at the last layer
            raise NonFiniteError(f"training diverged in {self.where}; {_began(name, 'the gradient of its {}')}")
        self.optimizer.step()
        if not all_finite(*(parameter.data for parameter in parameters.values())):
            name = next(name for name, parameter in parameters.items() if not all_finite(parameter.data))
            raise NonFiniteError(f"training diverged in the update of {self.where}; {_began(name, 'its {}')}")
        self.loss_sum += self.loss * len(batch.labels)
        self.correct += int((logits.data.argmax(axis=1) == batch.labels).sum())
        self.seen += len(batch.labels)
        self.step += 1

    def _end_epoch(self):
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "train_loss": self.loss_sum / self.seen,
            "train_accuracy": self.correct / self.seen,
            "test_loss": self.evaluation.loss,
            "test_accuracy": self.evaluation.accuracy,
            "images_per_second": round(self.seen / self.step_seconds, 2),
            "seconds": round(self.seconds, 3),
            "lr": self.optimizer.lr,
        }
        for callback in self.callbacks:
            record |= callback.measure(self)
        self.history.append(record)
        self.step, self.loss_sum, self.correct, self.seen, self.step_seconds = 0, 0.0, 0, 0, 0.0
        return record

    @property
    def seconds(self):
        """Time spent in ``run``, evaluations and saves included, over all resumes."""
        return self._seconds_before + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def progress(self):
        """How much of the run is done, 0 to 1."""
        return (self.epoch + self.step / self.loader.steps_per_epoch) / self.epochs

    @property
    def where(self):
        return f"step {self.step + 1} of epoch {self.epoch + 1}"

    def save(self):
        """Write the checkpoint, unless there is none to write or its state could not be trained on.

        Raises
        ------
        NonFiniteError : a parameter, a buffer or the optimizer's state is not finite; the last checkpoint is kept.
        """
        if self.checkpoint is None:
            return
        for kind, state in (("", self.model.state_dict()), (" in the optimizer", self.optimizer.state_dict())):
            for name, value in state.items():
                if isinstance(value, (np.ndarray, float)) and not all_finite(value):
                    raise NonFiniteError(f"training diverged before {self.where}: {name}{kind} is not finite")
        save_checkpoint(
            self.checkpoint, self.model, self.optimizer, config=self.config, notes=self.notes, epochs=self.epochs,
            epoch=self.epoch, step=self.step, loss_sum=self.loss_sum, correct=self.correct, seen=self.seen,
            step_seconds=self.step_seconds, seconds=self.seconds, random=list(random.get_state()), history=self.history,
        )  # fmt: skip

    def resume(self, checkpoint=None):
        """Continue where a checkpoint was saved, bit for bit.

        Parameters
        ----------
        checkpoint : Checkpoint or None   # None: read the one at ``self.checkpoint``
        Raises
        ------
        CheckpointError : it cannot be read, or was made with another model, data or configuration.
        """
        checkpoint = checkpoint or load_checkpoint(self.checkpoint)
        path, more = checkpoint.path, checkpoint.more
        if "history" not in more:
            raise CheckpointError(f"{path}: expected the checkpoint of a run, found a saved model without its training")
        refuse_contradictions(path, more["config"], self.config)
        if more["epoch"] > self.epochs:
            raise CheckpointError(f"{path}: expected at most {self.epochs} trained epochs, found {more['epoch']}")
        checkpoint.load_into(self.model)
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{path}: it was made with another optimizer: {error}") from None
        random.set_state(tuple(more["random"]))
        self.epoch, self.step, self.history = more["epoch"], more["step"], more["history"]
        self.loss_sum, self.correct, self.seen = more["loss_sum"], more["correct"], more["seen"]
        self.step_seconds, self._seconds_before = more["step_seconds"], more["seconds"]


def _cross_entropy(logits, batch, trainer):
    return functional.softmax_cross_entropy(logits, batch.labels)


def refuse_contradictions(path, saved, wanted):
    """Check that a run may continue a checkpoint.

    Raises
    ------
    CheckpointError : an entry of ``wanted`` differs from ``saved``.
    """
    for name, value in json.loads(json.dumps(wanted)).items():
        if name in saved and saved[name] != value:
            raise CheckpointError(
                f"{path}: it was made with {name.replace('_', ' ')} {show(saved[name])}, "
                f"which contradicts {name.replace('_', ' ')} {show(value)} asked for now"
            )


def show(value):
    """A setting as it is typed: 1,2,4 for a list."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


class Evaluation:
    """How a model does on a set of digits.

    Attributes
    ----------
    loss, accuracy : float
    confusion : int64 array, shape (classes, classes)       # [label, prediction]
    probabilities : float32 array, shape (N, classes)
    predictions : int64 array, shape (N,)
    """

    def __init__(self, probabilities, labels):
        self.probabilities, self.predictions = probabilities, probabilities.argmax(axis=1)
        self.confusion = np.zeros((probabilities.shape[1],) * 2, np.int64)
        np.add.at(self.confusion, (labels, self.predictions), 1)
        self.accuracy = float(self.confusion.trace() / len(labels))
        chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        self.loss = float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def evaluate(model, digits, batch_size=256, stop=lambda: False):
    """Classify all digits, in eval mode and without gradients; the model's mode is restored.

    Parameters
    ----------
    model : Module
    digits : Digits
    batch_size : int
    stop : callable      # asked before every batch
    Returns
    -------
    evaluation : Evaluation, or None where ``stop`` became true
    """
    training, probabilities = model.training, []
    model.eval()
    try:
        with no_grad():
            for start in range(0, len(digits), batch_size):
                if stop():
                    return None
                images = digits.images[start : start + batch_size].astype(np.float32) / np.float32(256)
                probabilities.append(functional.softmax(model(images).data))
    finally:
        if training:
            model.train()
    return Evaluation(np.concatenate(probabilities), digits.labels)


def fingerprint(digits):
    """One line that tells these digits from others: name, number, and a hash of all labels and 64 of the images."""
    digest = hashlib.sha256(np.ascontiguousarray(digits.labels))
    for index in np.linspace(0, len(digits) - 1, 64).astype(int):
        digest.update(np.ascontiguousarray(digits.images[index]))
    return f"'{digits.name}' ({len(digits)} images, fingerprint {digest.hexdigest()[:12]})"


def find_non_finite(model, images, noise):
    """Repeat the forward pass of a batch that went wrong and look where it did.

    Parameters
    ----------
    model : Module
    images : float32 array
    noise : tuple   # random state before the batch
    Returns
    -------
    origin : str    # names the first layer, in order of execution
    """
    if not all_finite(images):
        return "it began in the images of the batch, which are not finite"
    for name, parameter in model.named_parameters().items():
        if not all_finite(parameter.data):
            return _began(name, "its {}")
    found, watched = [], []

    def watch(name, module):
        forward = module.forward

        def watching(*args, **kwargs):
            output = forward(*args, **kwargs)
            if not found and isinstance(output, Tensor) and not all_finite(output.data):
                found.append(_began(f"{name}.output", "its {}"))
            return output

        module.__dict__["forward"] = watching  # hides the class's method until it is deleted again
        watched.append(module)

    for name, module in model.named_modules().items():
        if module is not model:
            watch(name, module)
    try:
        with random.preserved(), no_grad(), unfused(), np.errstate(all="ignore"):
            random.set_state(noise)
            model(images)
    finally:
        for module in watched:
            del module.__dict__["forward"]
    return found[0] if found else "it began in the loss itself, all layers are finite"


def _began(name, what):
    layer, _, part = name.rpartition(".")
    return f"it began in layer {layer}: {what.format(part)} is not finite"


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request, so that the step under way ends; a second Ctrl-C ends at once.

        with StopRequest() as stop:
            finished = trainer.run(stop)
        stop.signal     # None, or the number of the signal that came
    """

    def __init__(self):
        self.signal = None

    def __call__(self):
        return self.signal is not None

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
