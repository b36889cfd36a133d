"""The training loop, and how it stops: at its end, on request, or where a number stops being finite.

    loader -> train_step -> ... -> evaluate -> history -> checkpoint        once an epoch

Everything that a step depends on is in the checkpoint, so a run that was interrupted, even by a kill in the middle of
an epoch, repeats bit for bit what it would have done. Callbacks look on: they change nothing of that.

One clock runs in a training: ``progress``, the share of the run that is done. Learning rates are functions of it, and every
module hears of it before each step (``Module.advance``).
"""

import contextlib
import json
import math
import time

import numpy as np

from bitnet import execution, random
from bitnet.datasets import Loader
from bitnet.kernels.pointwise.finite import all_finite
from bitnet.methods import training_of
from bitnet.module import Module, Sequential, structure
from bitnet.storage import CheckpointError, load_checkpoint, save_checkpoint
from bitnet.storage.checkpoint import validated_run
from bitnet.training.evaluation import evaluate, fingerprint
from bitnet.training.finite import NonFiniteError, began, find_non_finite
from bitnet.training.task import task_for


class Trainer:
    """Trains a network.

    Parameters
    ----------
    model : Module                   # the network
    train, test : Dataset
    epochs : int                     # of the whole run, those before a resume included
    batch_size : int
    optimizer : Optimizer or None    # None: that of the model's method, with its schedule
    schedule : callable or None      # progress (0 to 1) -> learning rate; None: the optimizer's own, unchanged
    seed : int                       # order of the images, augmentation, dropout and gradient noise
    augment : Augmentation, Flip, CropAugmentation or None
    checkpoint : str, Path or None   # where to save; None: nowhere
    save_every : int                 # steps between saves inside an epoch; 0: at the end of an epoch only
    config : dict or None            # JSON-able; what of the run's configuration must not change on a resume
    notes : dict or None             # JSON-able; what may change: kept in the checkpoint, compared with nothing
    callbacks : sequence of Callback
    loss : callable or None          # (logits, targets) -> loss of classes of images; None: that of the model's method
    task : Task or None              # what a target is, and how well it is met; None: ``task_for(train, loss)``

    Attributes
    ----------
    epoch, step : int                # epochs completed, and steps done in the one after them
    history : list of dict           # a record an epoch: the lines of metrics.jsonl
    evaluation : Evaluation or None  # the latest of the test set
    """

    def __init__(
        self, model, train, test, *, epochs, batch_size=32, optimizer=None, schedule=None, seed=0, augment=None,
        checkpoint=None, save_every=0, config=None, notes=None, callbacks=(), loss=None, task=None,
    ):  # fmt: skip
        self.model, self.test, self.epochs = model, test, epochs
        self.loader = Loader(train, batch_size, seed=seed, augment=augment)
        if isinstance(model, Sequential):  # so that a file tells what its network is for
            model.trained_on, model.classes, model.pictures = tuple(train.shape), tuple(train.classes), train.kind
        own = training_of(model)
        if optimizer is None:
            optimizer, schedule = own["optimizer"], schedule or own["schedule"]
        self.optimizer, self.schedule = optimizer, schedule
        self.checkpoint, self.save_every, self.callbacks = checkpoint, save_every, list(callbacks)
        self.notes, self.task, self._seen_structure = notes or {}, task or task_for(train, loss or own["loss"]), None
        self.config = {
            **(config or {}), "batch_size": batch_size, "seed": seed,
            "training_data": fingerprint(train), "test_data": fingerprint(test),
        }  # fmt: skip
        self.epoch = self.step = 0
        self.history, self.evaluation, self.loss = [], None, math.nan
        self.loss_sum, self.correct, self.seen, self.step_seconds = 0.0, 0, 0, 0.0  # of the epoch under way
        self.wait_seconds = 0.0
        self._seconds_before, self._started = 0.0, None
        self.random = (seed, 0)  # the run's own stream of draws

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
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"), random.preserved():
                random.set_state(self.random)
                try:
                    return self._run(stop)
                finally:
                    self.random = random.get_state()
        finally:
            self._seconds_before, self._started = self.seconds, None
            for callback in self.callbacks:
                callback.on_end(self)

    def _run(self, stop):
        if self.epoch < self.epochs:
            images = next(self.loader.epoch(0)).images
            execution.rehearse(self.model, lambda net: net.train()(images).mean().backward())  # any loss needs these kernels
        while self.epoch < self.epochs:
            self.model.train()
            with contextlib.closing(self.loader.epoch(self.epoch, self.step)) as batches:
                started = time.perf_counter()
                for batch in batches:
                    self.wait_seconds += time.perf_counter() - started
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

            self.evaluation = evaluate(self.model, self.test, stop=stop, task=self.task)
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
        parts = self._parts()
        self._advance(parts)
        noise = random.get_state()
        self.optimizer.zero_grad()
        logits = self.model(batch.images)
        loss = self.task.loss(logits, batch, self)
        self.loss = float(loss.data)
        # a quantizer turns NaN into some code: batch norm's statistics may tell of trouble that the loss does not see
        if not math.isfinite(self.loss) or not all_finite(*parts.buffers.values()):
            origin = find_non_finite(self.model, batch.images, noise)
            raise NonFiniteError(f"training diverged in {self.where} with a loss of {self.loss}; {origin}")
        loss.backward()
        grads = {name: parameter.grad for name, parameter in parts.parameters.items() if parameter.grad is not None}
        if not all_finite(*grads.values()):
            name = next(name for name in reversed(grads) if not all_finite(grads[name]))  # backward begins at the last layer
            raise NonFiniteError(f"training diverged in {self.where}; {began(name, 'the gradient of its {}')}")
        self.optimizer.step()
        if not all_finite(*(parameter.data for parameter in parts.parameters.values())):
            name = next(name for name, parameter in parts.parameters.items() if not all_finite(parameter.data))
            raise NonFiniteError(f"training diverged in the update of {self.where}; {began(name, 'its {}')}")
        count = len(batch.targets)
        self.loss_sum += self.loss * count
        self.correct += self.task.correct(logits.data, batch.targets)
        self.seen += count
        self.step += 1

    def _parts(self):
        """What a step asks of the tree, found once as long as the tree is the same."""
        if self._seen_structure is None or self._seen_structure.structure != structure():
            self._seen_structure = _Parts(self.model)
        return self._seen_structure

    def _advance(self, parts):
        """Tell the optimizer and all modules how far the run is."""
        if self.schedule is not None:
            self.optimizer.lr = self.schedule(self.progress)
        if any([module.advance(self.progress) for module in parts.advancing]):  # all of them, so a list
            self.optimizer.restart()

    def _end_epoch(self):
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "train_loss": self.loss_sum / self.seen,
            "train_accuracy": self.correct / self.seen,
            "test_loss": self.evaluation.loss,
            "test_accuracy": self.evaluation.accuracy,
            **{f"test_{name}": value for name, value in self.evaluation.measures.items()},
            "images_per_second": round(self.seen / self.step_seconds, 2),
            "seconds": round(self.seconds, 3),
            "lr": self.optimizer.lr,
        }
        if self.loader.dataset.on_demand:
            record["waiting"] = round(self.wait_seconds / self.step_seconds, 4)  # for pictures: share of that time
        for callback in self.callbacks:
            record |= callback.measure(self)
        self.history.append(record)
        self.step, self.loss_sum, self.correct, self.seen, self.step_seconds = 0, 0.0, 0, 0, 0.0
        self.wait_seconds = 0.0
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
            step_seconds=self.step_seconds, seconds=self.seconds, history=self.history,
            random=list(self.random if self._started is None else random.get_state()),
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
        path, more = checkpoint.path, validated_run(checkpoint.path, checkpoint.more)
        refuse_contradictions(path, more["config"], self.config)
        if more["epoch"] > self.epochs:
            raise CheckpointError(f"{path}: expected at most {self.epochs} trained epochs, found {more['epoch']}")
        checkpoint.load_into(self.model)
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: it was made with another optimizer: {error}") from None
        self.random = tuple(more["random"])
        self.epoch, self.step, self.history = more["epoch"], more["step"], more["history"]
        self.loss_sum, self.correct, self.seen = more["loss_sum"], more["correct"], more["seen"]
        self.step_seconds, self._seconds_before = more["step_seconds"], more["seconds"]


class _Parts:
    """Parameters, buffers and modules that change in the course of a run, by name."""

    def __init__(self, model):
        self.structure = structure()
        self.parameters, self.buffers = model.named_parameters(), model.named_buffers()
        self.advancing = [module for module in model.modules() if type(module).advance != Module.advance]


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
