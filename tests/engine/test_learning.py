"""A tiny network of codes learns a few samples by heart, the same way every time."""

import numpy as np
import pytest

from bitnet import functional as F
from bitnet import layers, no_grad, optimizers, random
from bitnet.quantizers import DoReFaActivation, DoReFaGradient, DoReFaWeight


def network(bits, seed):
    w_bits, a_bits, g_bits = bits
    rng = np.random.default_rng(seed)

    def quantized(inputs, outputs, size):
        return layers.Conv2d(inputs, outputs, size, weight_quantizer=DoReFaWeight(w_bits),
                             grad_quantizer=DoReFaGradient(g_bits), rng=rng)

    return layers.Sequential(
        layers.Conv2d(3, 16, 3, padding="same", bias=True, rng=rng), layers.Activation(DoReFaActivation(a_bits)),
        quantized(16, 24, 3), layers.BatchNorm(24), layers.MaxPool(2), layers.Activation(DoReFaActivation(a_bits)),
        quantized(24, 32, 3), layers.BatchNorm(32), layers.Activation(), layers.Flatten(), layers.Linear(32, 4, rng=rng))


def learned(bits, seed, steps):
    """Losses and weights of a network that sees the same 12 random images in every step."""
    rng = np.random.default_rng(5)
    images, labels = rng.random((12, 8, 8, 3), np.float32), np.arange(12) % 4
    random.seed(seed)
    net = network(bits, seed)
    optimizer, losses = optimizers.Adam(net.parameters(), 0.01), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.softmax_cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    with no_grad():
        accuracy = np.mean(net(images).data.argmax(axis=1) == labels)
    return losses, net.state_dict(), accuracy


@pytest.mark.parametrize("bits", [(1, 2, 4), (1, 1, 4), (2, 3, 6), (8, 8, 8)])
def test_random_labels_are_learned_by_heart(bits):
    losses, _, accuracy = learned(bits, seed=0, steps=80)
    assert losses[0] > 1 and losses[-1] < 0.1 and accuracy == 1


def test_a_seed_repeats_and_another_differs():
    (first, weights, _), (again, same, _), (other, _, _) = (learned((1, 2, 4), seed, 10) for seed in (0, 0, 1))
    assert first == again
    for name, array in weights.items():
        np.testing.assert_array_equal(array, same[name])
    assert first != other


def test_the_noise_of_gradients_is_part_of_the_seed():
    # the same initial weights, another stream of noise: training takes another path
    results = []
    for draw in (0, 1000):
        net = network((1, 2, 2), 0)
        random.set_state((0, draw))
        F.softmax_cross_entropy(net(np.random.default_rng(0).random((6, 8, 8, 3), np.float32)), np.arange(6) % 4).backward()
        results.append(net[2].weight.grad)
    assert (results[0] != results[1]).any()
