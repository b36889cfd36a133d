"""The binarized network for ImageNet: its layers, on integers, and the three phases of its training."""

import numpy as np
import pytest

import bitnet
from bitnet import execution, layers, methods, models, no_grad
from bitnet import functional as F
from bitnet.datasets import Digits
from bitnet.storage import load_checkpoint
from bitnet.training import Distilled, Trainer

SHAPE, CLASSES = (16, 16, 3), 10


@pytest.fixture(scope="module")
def images():
    """Noise in which the place of a bright square is the label."""
    rng, labels = np.random.default_rng(0), (np.arange(60) % CLASSES).astype(np.uint8)
    pictures = rng.integers(0, 80, (60, *SHAPE))
    for picture, label in zip(pictures, labels, strict=True):
        row, column = 3 * (label % 5), 8 * (label // 5)
        picture[row:row + 4, column:column + 7] += 150
    return Digits(pictures.astype(np.uint8), labels, "squares")


def build(width=1 / 32):
    return models.build("wu", shape=SHAPE, classes=CLASSES, width=width)


def binary():
    return methods.WuBNN().apply(build(), seed=1)


def test_thirteen_layers_between_a_float_first_and_a_float_last_one():
    net = methods.WuBNN().apply(models.build("wu", shape=(224, 224, 3), width=1 / 64))
    weighted = [module for module in net.modules() if isinstance(module, layers.Weighted)]
    assert len(weighted) == 13 and weighted[0].weight.shape[:2] == (7, 7)
    assert [module.weight_quantizer is not None for module in weighted] == [False] + 11 * [True] + [False]
    assert [module.weight.shape[3] for module in models.build("wu").modules() if isinstance(module, layers.Weighted)] == [
        128, 256, 256, 256, 384, 384, 384, 512, 512, 512, 1024, 1024, 1000]
    assert net(np.zeros((2, 224, 224, 3), np.uint8)).shape == (2, 1000)
    with pytest.raises(ValueError, match=r"square images of 8 pixels and more, got \(16, 8, 3\)"):
        models.build("wu", shape=(16, 8, 3))


def test_three_phases_and_a_resumed_run(images, tmp_path):
    teacher = methods.Float().apply(build(1 / 16), seed=0)
    Trainer(teacher, images, images, epochs=4, batch_size=20).run()

    class Watched(Distilled):
        def loss(self, logits, batch, trainer):
            found = super().loss(logits, batch, trainer)
            hard = float(F.softmax_cross_entropy(logits.detach(), batch.targets).data)
            with no_grad():
                soft = float(F.soft_targets(logits.detach(), self.teacher(batch.images).data, 2.0).data)
            expected.append((hard, soft, (hard + soft) / 2)[int(trainer.progress * 3 + 1e-9)])
            losses.append(float(found.data))
            return found

    def trainer(**more):
        net = binary()
        options = methods.training_of(net)
        return Trainer(net, images, images, epochs=6, batch_size=20, task=Watched(options.pop("loss"), teacher), **options,
                       **more)

    losses, expected = [], []
    whole = trainer()
    assert whole.run()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(losses) == 18 and len({round(loss, 6) for loss in losses}) > 12
    first, steps = trainer(checkpoint=tmp_path / "run.h5"), iter(range(100))
    assert not first.run(stop=lambda: next(steps) == 7)  # in the second phase
    second = trainer()
    second.resume(load_checkpoint(tmp_path / "run.h5"))
    with execution.use_kernels("float"):
        assert second.run()
    for key, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[key])


def test_it_runs_on_integers_and_freezes(images):
    net, x = binary(), images.images[:6]
    with execution.log() as records:
        F.softmax_cross_entropy(net(x), images.targets[:6].astype(int)).backward()
    forward = [record.family != "float32" for record in records if record.role == "forward"]
    assert forward == [False] + 11 * [True] + [False]
    with no_grad():
        expected = net.eval()(x).data
    np.testing.assert_array_equal(bitnet.freeze(net)(x).data, expected)
