"""Ternary Neural Networks: thresholds against the float network on all inputs, searches against brute force, and students."""

import itertools

import numpy as np
import pytest

from bitnet import Tensor, execution, methods, models, no_grad, random
from bitnet import functional as F
from bitnet.datasets import Digits
from bitnet.layers import BatchNorm, Block, Conv2d, Flatten, Images, Sequential
from bitnet.methods.tnn import best_bias, best_thresholds, fit_neuron, fit_outputs
from bitnet.module import Signal
from bitnet.quantizers import IntegerThresholds, TNNActivation, TNNWeight
from bitnet.quantizers.tnn import FIRES, closed_form
from bitnet.training import Trainer, evaluate

from .converted import DATA, IMAGES, check_converted, small_net


def thresholds(sign, low, high):
    made = IntegerThresholds(len(low))
    made.sign[...], made.low[...], made.high[...] = sign, low, high
    return made


# Quantizers

def test_activations_fire_as_often_as_their_mean_says():
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    draws = TNNActivation().encode(np.tile(x, (20_000, 1))).levels()
    assert set(np.unique(draws)) == {-1, 0, 1} and (draws * np.sign(x) >= 0).all()
    np.testing.assert_allclose(draws.mean(axis=0), np.tanh(x), atol=0.015)
    y, saved = TNNActivation().eval().encode_and_save(np.array([-9, -FIRES, -0.54, 0, 0.54, FIRES, 9]))
    assert y.levels().tolist() == [-1, -1, 0, 0, 0, 1, 1]
    x = Tensor(np.array([0.3, -1.5]), requires_grad=True)
    TNNActivation()(x).backward(np.array([1.0, 2.0]))
    np.testing.assert_allclose(x.grad, [1 - np.tanh(0.3) ** 2, 2 * (1 - np.tanh(1.5) ** 2)])
    assert len(saved) == 7


def test_weights_are_drawn_in_training_and_stay_in_evaluation():
    w, quantizer = np.tile(np.array([-1.0, -0.4, 0, 0.7, 1]), (20_000, 1)), TNNWeight()
    one, other = quantizer.encode(w).levels(), quantizer.encode(w).levels()
    np.testing.assert_allclose(one.mean(axis=0), w[0], atol=0.015)
    assert (one != other).any() and (one[:, 0] == -1).all() and (one[:, 2] == 0).all() and (one[:, 4] == 1).all()
    with random.preserved():
        quantizer.trace(Signal((5,)))  # is no draw
    kept = TNNWeight()
    kept.load_state_dict(quantizer.state_dict())
    for same in (quantizer.eval(), kept.eval()):
        np.testing.assert_array_equal(same.encode(w).levels(), other)


def test_thresholds_in_closed_form_are_those_of_the_float_network():
    rng, channels, bound = np.random.default_rng(0), 400, 60
    norm = BatchNorm(channels)
    norm.gamma.data = (rng.normal(size=channels) * (rng.random(channels) < 0.9)).astype(np.float32)
    norm.beta.data = rng.normal(size=channels).astype(np.float32)
    norm.running_mean[...], norm.running_var[...] = 20 * rng.normal(size=channels), rng.uniform(1, 900, channels)
    sums = np.tile(np.arange(-bound, bound + 1, dtype=np.float32)[:, None], channels)
    with no_grad():
        expected = TNNActivation().eval()(norm.eval()(sums)).codes.levels()
    made = thresholds(*closed_form(norm.gamma.data.astype(np.float64), norm.beta.data.astype(np.float64), norm.running_mean,
                                   np.sqrt(norm.running_var + norm.eps)))
    np.testing.assert_array_equal(made.encode(sums).levels(), expected)
    assert (made.low <= made.high + 1).all() and (norm.gamma.data == 0).any() and set(np.unique(expected)) == {-1, 0, 1}


def test_thresholds_take_no_other_number_of_channels():
    with pytest.raises(ValueError, match="channels of thresholds must be a whole number from 1"):
        IntegerThresholds(0)


# Searches

@pytest.mark.parametrize("seed", range(5))
def test_best_thresholds_are_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    sums, y = rng.integers(-4, 5, 40), rng.uniform(-1, 1, 40)
    plus, minus = np.maximum(y, 0), np.maximum(-y, 0)

    def agreement(low, high):
        return (minus[sums < low].sum() + (1 - np.abs(y))[(sums >= low) & (sums <= high)].sum() + plus[sums > high].sum()) / 40

    best = max(agreement(low, high) for low in range(-5, 7) for high in range(low - 1, 6))
    low, high, found = best_thresholds(sums, y)
    assert found == pytest.approx(best) == agreement(low, high) and low <= high + 1


@pytest.mark.parametrize("seed", range(5))
def test_best_bias_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    sums, others, label = rng.integers(-5, 6, 60), rng.integers(-3, 4, (60, 3)), rng.integers(0, 4, 60)

    def right(bias):
        outputs = np.column_stack([others, sums + bias])
        winners = outputs == outputs.max(axis=1, keepdims=True)
        return (winners[np.arange(60), label] / winners.sum(axis=1)).sum()

    bias, found = best_bias(sums, others, label[:, None] == np.arange(3), label == 3)
    assert found == pytest.approx(max(map(right, range(-12, 13)))) == right(bias)


def test_a_neuron_that_is_ternary_is_found_again():
    rng = np.random.default_rng(3)
    inputs, t = rng.integers(-1, 2, (20, 3000)).astype(np.int8), rng.permutation([1] * 6 + [-1] * 5 + [0] * 9)
    sums = t @ inputs
    y = np.where(sums > 2, 1.0, np.where(sums < -1, -1.0, 0.0))
    found, low, high, agreement = fit_neuron(t * rng.uniform(1, 2, 20) + rng.uniform(-0.1, 0.1, 20), inputs, y)
    assert (found == t).all() and (low, high, agreement) == (-1, 2, 1.0)


def test_the_last_layer_is_at_least_as_good_as_its_classes_alone():
    rng = np.random.default_rng(4)
    weight, inputs = rng.normal(size=(12, 4)), rng.integers(-1, 2, (12, 500)).astype(np.int8)
    labels = (weight.T @ inputs).argmax(axis=0)
    t, bias = fit_outputs(weight, inputs, labels)
    outputs = t.T.astype(int) @ inputs + bias[:, None]
    right = (outputs.argmax(axis=0) == labels).mean()
    signs = np.sign(weight).astype(int).T @ inputs
    assert right > 0.8 and right > (signs.argmax(axis=0) == labels).mean() and set(np.unique(t)) <= {-1, 0, 1}
    # no other bias of a single class does better
    for c, step in itertools.product(range(4), (-1, 1)):
        moved = outputs.copy()
        moved[c] += step
        assert (moved.max(axis=0) == moved[labels, np.arange(500)]).mean() <= (
            outputs.max(axis=0) == outputs[labels, np.arange(500)]).mean() + 0.02


# Networks

def integers_only(net, images):
    with execution.log() as records, no_grad():
        logits = net(images).data
    assert all(record.family in execution.FAMILIES and record.bits[1] == 2 and record.bits[0] <= 2 for record in records)
    np.testing.assert_array_equal(logits, np.rint(logits))


def patterns(count, seed):
    """Ten patterns of black and white, of which three pixels in ten are turned."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 10
    known = np.random.default_rng(0).random((10, 28, 28, 1)) < 0.5
    return Digits(255 * (known[labels] ^ (rng.random((count, 28, 28, 1)) < 0.3)).astype(np.uint8), labels, "patterns")


def test_the_student_of_a_trained_teacher(tmp_path):
    train, test = patterns(1500, 1), patterns(500, 2)
    teacher = methods.TNN().apply(models.mlp(width=40, hidden=2), 0)
    Trainer(teacher, train, test, epochs=4, batch_size=50, **methods.training_of(teacher)).run()
    before = evaluate(teacher, test).accuracy
    student = methods.TNN().convert(teacher, train)
    after = evaluate(student, test).accuracy
    assert after > before - 0.1 and before > 0.6, (before, after)
    integers_only(student.eval(), test.images)
    _, frozen = check_converted(student, tmp_path, test.images[:100])
    kinds = [stage.kind for stage in frozen.stages]
    assert kinds.count("thresholds") == 2 and kinds.count("product") == 1 and "steps" not in kinds
    assert repr(student.method) == "TNN(2, 2, 32)"


def test_trained_ternary_weights_in_closed_form(tmp_path):
    net = methods.TNN(2, 2, 32).apply(small_net_of_blocks(), 0)
    net.train()(IMAGES)
    loss = F.softmax_cross_entropy(net(IMAGES), DATA.targets)
    loss.backward()
    assert all(np.abs(parameter.grad).sum() > 0 for name, parameter in net.named_parameters().items() if "weight" in name)
    net.eval()
    for norm in net.modules():
        if isinstance(norm, BatchNorm):  # some that fall
            norm.gamma.data = norm.gamma.data * np.where(np.arange(len(norm.gamma.data)) % 3, 1, -1).astype(np.float32)
    with no_grad():
        expected = net(IMAGES).data
    net = methods.TNN(2, 2, 32).convert(net, DATA)
    found, frozen = check_converted(net, tmp_path)
    np.testing.assert_array_equal(found, expected)
    integers_only(net, IMAGES)
    assert [stage.kind for stage in frozen.stages].count("thresholds") == 2


def small_net_of_blocks():
    return Sequential(images=Images(12, 12, 3), first=Block(3, 8, 3, pool=2, order="conv pool norm act"),
                      second=Block(8, 12, 3, pool=3), fc=Conv2d(12, 5, 1), flatten=Flatten())


def test_what_cannot_be_converted_is_said():
    for net, message in ((small_net(), "converts networks that it made, .* got Residual"),
                         (models.mlp(width=8, hidden=1), "converts networks that it made, .* got Block"),
                         (methods.TNN().apply(small_net_of_blocks()), r"student of a multilayer perceptron, got a layer with")):
        with pytest.raises(ValueError, match=message):
            methods.TNN().convert(net, DATA)
    with pytest.raises(ValueError, match="tnn has 32 bits for W, of a teacher, or 2, got 1"):
        methods.TNN(1, 2, 32)
