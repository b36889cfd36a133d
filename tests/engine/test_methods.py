"""Layers, losses, optimizers and recipes of the methods around DoReFa."""

import contextlib
from itertools import pairwise

import numpy as np
import pytest

from bitnet import (
    Parameter,
    Residual,
    Sequential,
    Tensor,
    execution,
    layers,
    methods,
    models,
    no_grad,
    optimizers,
    random,
)
from bitnet import functional as F
from bitnet.datasets import Digits
from bitnet.quantizers import (
    BNNActivation,
    DoReFaActivation,
    GXNORWeight,
    NormalizedActivation,
    TTQWeight,
)
from bitnet.storage import load, load_checkpoint, save
from bitnet.training import Distilled, Trainer


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# Smooth operations

def test_gradients_of_smooth_operations(gradcheck):
    x = normal(3, 4, 5, 2, dtype=np.float64)
    gradcheck(F.tanh, x)
    gradcheck(F.mean_magnitude, x + np.sign(x) * 0.01)
    teacher = normal(6, 4, seed=1, dtype=np.float64)
    gradcheck(lambda logits: F.soft_targets(logits, teacher), normal(6, 4, dtype=np.float64))
    gradcheck(lambda logits: F.soft_targets(logits, teacher, 3.0), normal(6, 4, dtype=np.float64))


def test_soft_targets_by_hand():
    logits, teacher = np.log([[0.5, 0.5]]), np.log([[0.8, 0.2]])
    divergence = 0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5)
    loss = F.soft_targets(Tensor(logits, requires_grad=True), teacher)
    assert float(loss.data) == pytest.approx(divergence)
    assert float(F.soft_targets(Tensor(3 * logits), 3 * teacher, 3.0).data) == pytest.approx(9 * divergence)
    assert float(F.soft_targets(Tensor(teacher), teacher).data) == 0
    with pytest.raises(ValueError, match=r"a teacher's logits of shape \(1, 2\)"):
        F.soft_targets(Tensor(logits), teacher.T)


def test_bitwise_disagreement_counts_wrong_bits():
    logits = np.full((2, 10), -50.0)
    logits[0, 3] = logits[1, 4] = 50
    assert float(F.bitwise_disagreement(Tensor(logits), np.array([3, 5])).data) == pytest.approx(1)  # none, and two


# Batch norms

def test_shift_batch_norm_by_hand():
    x = np.array([[1.0], [2.0], [6.0]])  # mean 3: c = -2, -1, 3; AP2(c) = -2, -1, 4; var = (4 + 1 + 12) / 3, rstd = 0.42
    mean, rstd = F.shift_statistics(x, 0.0)
    assert (mean[0], rstd[0]) == (3, pytest.approx(np.sqrt(3 / 17)))
    x, gamma, beta = (Tensor(np.array(v, np.float64), requires_grad=True) for v in (x, [3.0], [0.5]))
    y = F.shift_batch_norm(x, gamma, beta, mean, rstd, training=True)
    np.testing.assert_allclose(y.data, np.array([[-2.0], [-1], [3]]) * 0.5 * 4 + 0.5)  # AP2(rstd) = 1/2, AP2(3) = 4
    g = np.array([[1.0], [0.0], [2.0]])
    y.backward(g)
    shifted = np.array([[-2.0], [-1], [4]])
    np.testing.assert_allclose(x.grad, (g - 1 - shifted * 0.25 * np.mean(shifted * g)) * 0.5 * 4)
    np.testing.assert_allclose(gamma.grad, [np.sum(g * [[-1], [-0.5], [2]])])  # AP2(c / 2)
    np.testing.assert_allclose(beta.grad, [3])


def test_shift_batch_norm_keeps_running_statistics():
    norm, x = layers.ShiftBatchNorm(4), normal(64, 4) * 3 + 1
    for _ in range(60):
        norm(x)
    mean, rstd = F.shift_statistics(x, norm.eps)
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-2)
    np.testing.assert_allclose(norm.running_rstd, rstd, rtol=1e-2)
    trained = norm(x).data
    np.testing.assert_allclose(norm.eval()(x).data, trained, atol=0.05)
    assert np.isfinite(layers.ShiftBatchNorm(3)(np.zeros((5, 3), np.float32)).data).all()


@pytest.mark.parametrize("fused", [False, True])
def test_an_unbiased_running_variance(fused):
    sizes = (3, 4, 8, 8, 2)
    block = methods.DoReFa(1, 2, 4).apply(Sequential(*(layers.Block(*pair, 1) for pair in pairwise(sizes))), 0)[1]
    block.norm = layers.BatchNorm(8, momentum=0.5, unbiased=True)
    x = DoReFaActivation(2)(normal(3, 2, 2, 4))
    with contextlib.nullcontext() if fused else layers.unfused():
        block(x)
        y = block.conv(x).data
    np.testing.assert_allclose(block.norm.running_var, 0.5 + 0.5 * y.var(axis=(0, 1, 2), ddof=1), rtol=1e-5)
    assert block.fused == "codes"


def test_low_precision_batch_norm():
    norm, x = layers.LowPrecisionBatchNorm(3, bits=2), normal(40, 3) * 2 + 1
    norm.gamma.data[:], norm.beta.data[:] = [1, 2, -1], [0, 1, 0.5]
    leaf = Tensor(x, requires_grad=True)
    y = norm(leaf)
    normal_x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-4)
    q = NormalizedActivation(2).encode(normal_x).decode()
    np.testing.assert_allclose(y.data, norm.gamma.data * q + norm.beta.data, rtol=1e-5)
    g = normal(40, 3, seed=1)
    y.backward(g)
    np.testing.assert_allclose(norm.gamma.grad, (g * q).sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.beta.grad, g.sum(axis=0), rtol=1e-4)
    scale = norm.gamma.data / np.sqrt(x.var(axis=0) + 1e-4)
    np.testing.assert_allclose(leaf.grad, scale * (g - g.mean(axis=0) - q * (g * q).mean(axis=0)), rtol=1e-3, atol=1e-5)


def test_with_many_bits_it_is_batch_norm():
    x, g = normal(200, 3), normal(200, 3, seed=1)
    grads = []
    for norm in (layers.BatchNorm(3), layers.LowPrecisionBatchNorm(3, bits=8)):
        leaf = Tensor(x, requires_grad=True)
        norm(leaf).backward(g)
        grads.append(leaf.grad)
    np.testing.assert_allclose(grads[1], grads[0], atol=0.05)


# Layers

def test_xnor_convolution_multiplies_by_both_scales():
    layer, x = layers.XNORConv2d(3, 4, 3, padding=1), normal(2, 5, 6, 3)
    alpha = np.abs(layer.weight.data).mean(axis=(0, 1, 2))
    signs = F.conv2d(*(Tensor(np.where(v >= 0, 1, -1).astype(np.float32)) for v in (x, layer.weight.data)), padding=1).data
    padded = np.pad(np.abs(x).mean(axis=3), ((0, 0), (1, 1), (1, 1)))
    box = sum(padded[:, i:i + 5, j:j + 6] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(layer(x).data, signs * alpha * box[..., None], rtol=1e-4, atol=1e-5)
    layer.scale_map = False
    np.testing.assert_allclose(layer(x).data, signs * alpha, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("through_map", [False, True])
def test_the_gradient_through_the_map(through_map):
    layer, x, g = layers.XNORConv2d(3, 4, 1, through_map=through_map), normal(2, 3, 3, 3) * 3, normal(2, 3, 3, 4, seed=1)
    leaf = Tensor(x, requires_grad=True)
    layer(leaf).backward(g)
    alpha, sign = np.abs(layer.weight.data).mean(axis=(0, 1, 2)), np.where(x >= 0, 1, -1)
    signs, box = np.where(layer.weight.data[0, 0] >= 0, 1, -1), np.abs(x).mean(axis=3, keepdims=True)
    expected = (g * box * alpha) @ signs.T * (np.abs(x) < 1)
    if through_map:
        expected = expected + sign * np.sum(g * (sign @ (signs * alpha)), axis=3, keepdims=True) / 3
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-4)


def test_discrete_parameters_keep_bytes_and_nothing_else():
    weight = layers.DiscreteParameter(np.array([[-0.9, 0.2], [0.6, 0.4]]), GXNORWeight())
    assert weight.data.tolist() == [[-1, 0], [1, 0]] and weight.codes.encoding == "ternary"
    assert [type(v).__name__ for v in vars(weight).values() if isinstance(v, np.ndarray)] == ["ndarray"]
    assert weight.places.dtype == np.uint8 and weight.stored is weight.places
    weight.data = np.ones((2, 2))
    assert weight.places.tolist() == [[2, 2], [2, 2]]
    layer = layers.Linear(2, 2, bias=False, weight_quantizer=GXNORWeight())
    assert isinstance(layer.weight, layers.DiscreteParameter)
    layer.load_state_dict({"weight": np.array([[0, 1], [2, 0]], np.uint8)})
    assert layer.weight.data.tolist() == [[-1, 0], [1, -1]]
    for wrong in (np.array([[0, 1], [3, 0]], np.uint8), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match=r"weight takes the places .* integers from 0 to 2"):
            layer.load_state_dict({"weight": wrong})
    assert layer.weight.data.tolist() == [[-1, 0], [1, -1]]
    assert "float32" in repr(layers.DiscreteParameter(np.zeros(3), GXNORWeight(2)))


def test_dst_moves_discrete_weights_and_trains_others():
    space = GXNORWeight()
    discrete = layers.DiscreteParameter(np.zeros((50, 40)), space)
    real = Parameter(np.zeros(3, np.float32))
    optimizer = optimizers.DST([discrete, real], lr=0.1)
    discrete.grad, real.grad = np.ones((50, 40), np.float32), np.ones(3, np.float32)
    optimizer.step()
    np.testing.assert_allclose(real.data, -0.1, rtol=1e-4)  # Adam's first step has the length lr
    share = np.mean(discrete.data == -1)
    assert set(np.unique(discrete.data)) == {-1, 0} and share == pytest.approx(np.tanh(3 * 0.1), abs=0.04)
    state = optimizer.state_dict()
    other = optimizers.DST([discrete, real], lr=1)
    other.load_state_dict(state)
    assert other.lr == 0.1 and other.steps == 1


def test_bitwise_layers_go_from_floats_to_bits():
    layer, x = layers.BitwiseLinear(64, 5), BNNActivation()(normal(3, 64))
    w, b = layer.weight.data.copy(), layer.bias.data.copy()
    np.testing.assert_allclose(layer(x).data, x.data @ np.tanh(w) + np.tanh(b), rtol=1e-4, atol=1e-5)
    assert layer.start_bits() and not layer.start_bits()  # once is enough
    np.testing.assert_allclose(layer.weight.data, np.tanh(w), rtol=1e-6)
    with execution.log() as records:
        y = layer(x)
    assert records[0].family != "float32" and records[0].bits == (1, 1)
    # a last layer divides by sqrt(inputs)
    np.testing.assert_array_equal(y.data, (x.data @ np.where(w >= 0, 1, -1) + np.where(b >= 0, 1, -1)) / 8)
    other = layers.BitwiseLinear(64, 5)
    other.load_state_dict(layer.state_dict())
    assert other.stage == 2
    for held, stage in ((np.inf, 2), (7, 2), (np.nan, 1), (-3, 1)):  # what a file may say
        other.bits[0] = held
        assert other.stage == stage


def test_glorots_factor():
    assert optimizers.glorot_factor(784, 1024) == pytest.approx(np.sqrt(1808 / 1.5))
    assert optimizers.glorot_factor(784, 1024, power_of_two=True) == 32


# Recipes

@pytest.fixture(scope="module")
def digits():
    """200 images of noise whose brightest rows tell the label."""
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (200, 28, 28, 1))
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4:2 * label + 8] += 180
    return Digits(images.astype(np.uint8), labels, "rows")


def small(name, bits=None):
    """The network of a method with few channels: what counts is how it is wired."""
    method = methods.get(name)(*(() if bits is None else (bits,)))
    if method.recipe.network == "mlp":
        return method.apply(models.build("mlp", width=64), 0)
    return method.apply(Sequential(
        images=layers.Images(28, 28, 1), block0=layers.Block(1, 8, 5, pool=2, order="conv pool norm act"),
        block1=layers.Block(8, 16, 5, pool=2, order="conv pool norm act"),
        block2=layers.Block(16, 64, 4, order="conv pool norm act"), fc=layers.Conv2d(64, 10, 1, bias=True),
        flatten=layers.Flatten()), 0)


def trainer_of(model, digits, epochs=6, **more):
    options = methods.training_of(model) | more
    return Trainer(model, digits, digits, epochs=epochs, batch_size=20, **options)


CODED = {  # layers whose forward product must run on integers, from the first on
    "dorefa": "011 0", "bwn": "100 0", "binaryconnect": "100 0", "binaryconnect_stochastic": "100 0", "bnn": "111 1",
    "bnn_shift": "111 1", "xnor": "011 0", "xnor_release": "011 0", "xnor_gradients": "011 0", "twn": "100 0", "qnn": "111 1",
    "qnn_log": "111 1",
    "gxnor": "111 1", "bitwise": "111 1",
}  # fmt: skip


@pytest.mark.parametrize("name", methods.names())
def test_every_method_learns_resumes_and_runs_on_integers_where_its_operands_allow(name, digits, tmp_path):
    model = small(name)
    trainer = trainer_of(model, digits)
    assert trainer.run()
    history = [record["train_loss"] for record in trainer.history]
    assert np.isfinite(history).all() and min(history[-3:]) < 0.9 * history[0]
    with execution.log() as records, no_grad():
        expected = model.eval()(digits.images[:8].astype(np.float32) / np.float32(256)).data
    on_bits = "".join("01"[r.family != "float32"] for r in records if not r.layer.endswith(".map"))
    if name in CODED:
        # of the stochastic method, real weights are evaluated
        assert on_bits == ("0000" if name == "binaryconnect_stochastic" else CODED[name].replace(" ", ""))
    save(tmp_path / "model.h5", model)
    loaded = load(tmp_path / "model.h5")
    np.testing.assert_array_equal(loaded(digits.images[:8].astype(np.float32) / np.float32(256)).data, expected)


@pytest.mark.parametrize("name", ["bnn", "gxnor", "twn", "xnor", "xnor_gradients", "qnn_log"])
def test_training_is_the_same_on_all_kernels(name, digits):
    states = []
    for family in execution.FAMILIES:
        with execution.use_kernels(family):
            trainer = trainer_of(small(name), digits, epochs=1)
            trainer.run()
        states.append(trainer.model.state_dict())
    for state in states[1:]:
        for key, value in states[0].items():
            np.testing.assert_array_equal(value, state[key])


@pytest.mark.parametrize("name", ["bitwise", "gxnor", "bnn_shift", "staircase", "lbc"])
def test_an_interrupted_run_is_the_same(name, digits, tmp_path):
    whole = trainer_of(small(name), digits, epochs=2)
    whole.run()
    first = trainer_of(small(name), digits, epochs=2)
    first.checkpoint, steps = tmp_path / "run.h5", iter(range(100))
    assert not first.run(stop=lambda: next(steps) == 12)
    second = trainer_of(small(name), digits, epochs=2)
    second.resume(load_checkpoint(tmp_path / "run.h5"))
    assert second.run()
    for key, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[key])


@pytest.mark.parametrize("name", ["twn", "ttq", "bnn", "binaryconnect", "xnor", "gxnor"])
def test_dorefas_activations_and_gradients_extend_other_methods(name, digits):
    w_bits, a_bits, _ = methods.get(name).own_bits
    model = small(name, (w_bits, 2 if a_bits == 32 else a_bits, 4))
    trainer = trainer_of(model, digits, epochs=1)
    with execution.log() as records:
        trainer.run()
    inner = [r for r in records if r.layer in ("block1", "block2")]
    assert {r.role for r in inner} == {"forward", "input_grad", "weight_grad"}
    assert all(r.family != "float32" for r in inner)


def test_ttq_on_codes_is_two_products():
    layer = layers.Conv2d(5, 4, 3, weight_quantizer=TTQWeight())
    layer.weight_quantizer.scales.data[:] = 0.7, 1.6
    x = BNNActivation()(normal(2, 6, 6, 5))
    with execution.log() as records:
        y = layer(x).data
    assert len(records) == 2 and all(r.family != "float32" for r in records)
    delta = 0.05 * np.abs(layer.weight.data).max()
    real = np.where(layer.weight.data > delta, 0.7, 0) - np.where(layer.weight.data < -delta, 1.6, 0)
    np.testing.assert_allclose(y, F.conv2d(x.data, Tensor(real.astype(np.float32))).data, rtol=1e-4, atol=1e-4)


def test_a_teacher_is_listened_to_after_a_third_of_the_run(digits):
    model = small("bnn")
    asked = []

    def teacher(images):
        asked.append(len(images))
        return Tensor(normal(len(images), 10))

    trainer = trainer_of(model, digits, epochs=3, task=Distilled(F.squared_hinge, teacher))
    trainer.run()
    assert len(asked) == 20 and all(count == 20 for count in asked)  # of 30 steps


def test_a_teacher_that_was_just_trained_stays_as_it_is(digits):
    teacher = small("qnn")  # with batch norm and dropout
    assert teacher.training
    before = teacher.state_dict()
    trainer_of(small("bnn"), digits, epochs=1, task=Distilled(F.squared_hinge, teacher)).run()
    assert not teacher.training
    for name, value in teacher.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_latent_weights_stay_within_their_bounds(digits):
    trainer = trainer_of(small("bnn"), digits, epochs=2)
    trainer.run()
    weights = [parameter.data for parameter in trainer.model.parameters() if parameter.constraint]
    assert len(weights) == 4 and all(np.abs(w).max() == 1 for w in weights)


def test_bitwise_starts_its_bits_once_with_a_new_optimizer(digits):
    trainer = trainer_of(small("bitwise"), digits, epochs=4)
    steps, loss = [], trainer.task.loss
    trainer.task.loss = lambda *args: steps.append(trainer.optimizer.steps) or loss(*args)
    trainer.run()
    assert steps == 2 * list(range(20)) and trainer.model.fc0.stage == 2


def test_dropped_pixels_are_codes_of_training_only(digits):
    model = methods.QNN(1, 1, 32).apply(models.build("mlp", width=64, drop=0.5), 0)
    x = np.full((20, 28, 28, 1), 0.5, np.float32)
    with execution.log() as records, no_grad():
        model(x)
    # 0.5 or 0, then +-1 or 0: one more bit than without dropout, but integers
    assert [r.bits for r in records] == [(8, 1), (2, 1), (2, 1), (2, 1)] and all(r.family != "float32" for r in records)
    with execution.log() as records, no_grad():
        model.eval()(x)
    assert [r.bits for r in records] == [(8, 1), (1, 1), (1, 1), (1, 1)]
    model.train()
    values = model.drop(model.pixels(x)).data
    assert set(np.unique(values)) == {0, np.float32(0.5 / 0.8)} and abs((values == 0).mean() - 0.2) < 0.02


def test_svhn_networks_of_methods():
    images = np.random.default_rng(0).random((4, 40, 40, 3), np.float32)
    for name in methods.names():
        if name != "bitwise":
            model = methods.build(name, "svhn", model="D")
            assert model(images).shape == (4, 10)
    one, other = methods.build("dorefa", "svhn", model="D"), models.svhn("D")
    assert repr(one) == repr(other)  # the same network, the same weights
    for key, value in one.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[key])


@pytest.mark.parametrize("call, message", [
    (lambda: methods.get("tnw"), "the method must be one of .*dorefa, .*float, .*, got 'tnw'"),
    (lambda: methods.build("twn", bits=(1, 32, 32)), "twn has 2 bits for W, got 1"),
    (lambda: methods.build("bnn", bits=(1, 2, 32)), "bnn has 1 bits for A, got 2"),
    (lambda: methods.Bitwise().apply(models.build("lenet")), "a Bitwise Neural Network is a multilayer perceptron"),
    (lambda: methods.TWN().apply(methods.TWN().apply(models.build("lenet"))), "got one that is quantized already"),
    (lambda: methods.TWN().apply(layers.Flatten()), "no layer with weights"),
    (lambda: methods.TWN().convert(None, None), "twn is trained, not converted to"),
    (lambda: methods.training_of(small("bitwise"), lr=0), "the learning rate must be positive, got 0"),
    (lambda: methods.build("bnn", network="svhn"), "there is no network 'svhn' for MNIST"),
    (lambda: methods.build("bitwise", "svhn"), "a Bitwise Neural Network is a multilayer perceptron"),
    (lambda: methods.build("bnn")(normal(2, 28, 28, 3)), r"images of shape \(N, 28, 28, 1\), got \(2, 28, 28, 3\)"),
])
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_noise_is_that_of_the_program():
    random.set_state((3, 5))
    a = random.uniform((2, 40000))
    assert random.get_state() == (3, 6) and a.dtype == np.float32 and 0 < a.min() and a.max() < 1
    assert a.mean() == pytest.approx(0.5, abs=0.005)
    random.set_state((3, 5))
    np.testing.assert_array_equal(random.uniform((80000,)).reshape(2, -1), a)


# As their authors have them

def test_the_shift_based_networks_of_bnns_authors():
    net = methods.BNNShift().apply(models.build("mlp", width=64), 0)
    assert isinstance(net.block1.norm, layers.ShiftBatchNorm) and type(net.bn) is layers.BatchNorm
    assert net.block1.conv.weight.lr_factor == pytest.approx(np.sqrt(128 / 1.5))
    assert net.block1.norm.gamma.lr_factor == pytest.approx(np.sqrt(64 / 1.5)) and net.block1.norm.beta.lr_factor == 1
    assert net.bn.gamma.lr_factor == pytest.approx(np.sqrt(10 / 1.5)) and net.bn.eps == 1e-5
    net = methods.build("bnn_shift", "svhn", model="D")
    assert np.log2(net.conv3.conv.weight.lr_factor) % 1 == 0 and net.conv3.norm.gamma.lr_factor == 1


@pytest.mark.parametrize("name", ["twn", "bwn"])
def test_the_lenet_of_twns_authors(name):
    net = methods.build(name)
    assert net.block0.order == "conv norm pool act" or net.block0.order == "conv norm act pool"
    assert net.fc.bias.lr_factor == 2 and net.fc.weight_quantizer is not None and net.block1.conv.bias is None
    assert np.abs(net.block1.conv.weight.data).max() == pytest.approx(np.sqrt(3 / 800), rel=1e-3)
    optimizer = methods.training_of(net)["optimizer"]
    assert optimizer.weight_decay == 1e-4 and not any(parameter.weight_decay for parameter in net.parameters())


# Trees

def test_a_method_rewrites_a_users_own_tree():
    net = Sequential(
        layers.Conv2d(3, 8, 3, padding=1), layers.BatchNorm(8), layers.Activation(),
        Residual(layers.Block(8, 8, 3, padding=1, groups=8), layers.Block(8, 8, 1)),
        layers.Conv2d(8, 12, 3), layers.BatchNorm(12), layers.Activation(), layers.Flatten(), layers.Linear(12 * 4 * 4, 5))
    before = {name: parameter.data.copy() for name, parameter in net.named_parameters().items()}
    assert methods.DoReFa(1, 2, 4).apply(net) is net
    for name, parameter in net.named_parameters().items():
        np.testing.assert_array_equal(parameter.data, before.get(name, parameter.data))  # trained weights stay
    assert net[0].weight_quantizer is None and net[8].weight_quantizer is None  # the ends are float
    assert isinstance(net[2].quantizer, DoReFaActivation) and isinstance(net[6], layers.Clip)
    assert net[4].input_quantizer.bits == 2  # a sum of residuals is real
    with execution.log() as records:
        y = net(np.random.default_rng(0).random((4, 6, 6, 3), np.float32))
        y.sum().backward()
    inner = [record for record in records if record.layer in ("3.0", "3.1", "4")]
    assert len(inner) == 9 and all(record.family != "float32" for record in inner)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_new_method_is_one_file(tmp_path):
    source = tmp_path / "toy.py"
    source.write_text(TOY)
    namespace = {"__name__": "toy"}
    try:
        exec(compile(TOY, str(source), "exec"), namespace)
        assert len(TOY.splitlines()) <= 40 and "toy" in methods.names()
        net = methods.get("toy")().apply(models.build("lenet"), seed=0)
        codes = net.block1.conv.quantized_weight().codes
        assert (codes.bits, codes.encoding) == (1, "bipolar")
        assert net.block1.conv.weight.constraint.bound == 0.5
        optimizer = methods.training_of(net)["optimizer"]
        assert isinstance(optimizer, optimizers.SGD) and optimizer.lr == 0.1
        assert net(np.zeros((2, 28, 28, 1), np.uint8)).shape == (2, 10)
    finally:
        methods.base.METHODS.pop("toy", None)


TOY = """
from bitnet.codes import Codes
from bitnet.methods.base import Method, Recipe
from bitnet.optimizers import SGD, Tenths
from bitnet.quantizers import Quantizer


class HalfWeight(Quantizer):
    def __init__(self):
        super().__init__(1)

    def encode_and_save(self, array):
        return Codes((array >= 0).astype("uint8"), 1, "bipolar", 0.5), None


class Toy(Method):
    name, title = "toy", "Weights of one half"
    own_bits, clip = (1, 32, 32), 0.5
    recipe = Recipe(optimizer=SGD, schedule=Tenths, lr=0.1)

    def weight(self):
        return HalfWeight()
"""
