"""Kernels from a codebook: the nearest words, how they are learned, and that all 512 are plain signs."""

import numpy as np
import pytest

import bitnet
from bitnet import Tensor, execution, layers, methods, models, no_grad, random
from bitnet.datasets import Digits
from bitnet.deploy import codebook
from bitnet.quantizers import KernelWords, LearnedWords, SelectedWords, XNORWeight
from bitnet.quantizers.words import BITS, assigned, random_words, sinkhorn, sinkhorn_grad, words_of
from bitnet.report.words import draw_words, word_counts
from bitnet.storage import load, load_checkpoint, save
from bitnet.training import Trainer

LEARNED = [LearnedWords, SelectedWords]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def digits():
    """Noise in which the place of a bright stripe is the label."""
    rng, labels = np.random.default_rng(0), (np.arange(80) % 10).astype(np.uint8)
    images = rng.integers(0, 60, (80, 12, 12, 1))
    for image, label in zip(images, labels, strict=True):
        image[label:label + 3] += 180
    return Digits(images.astype(np.uint8), labels, "rows")


def small(name, words=16):
    return methods.get(name)(words=words).apply(models.build("vgg", shape=(12, 12, 1), widths=(8, 16)), seed=0)


def trainer_of(net, digits, **more):
    return Trainer(net, digits, digits, epochs=3, batch_size=20, **methods.training_of(net), **more)


@pytest.mark.parametrize("kind", [KernelWords, *LEARNED])
def test_all_words_are_the_signs_bit_for_bit(kind):
    w = normal(3, 3, 7, 11)
    w[0, 0], w[1, 1, 2], w[2, 2] = 0, -1e-30, -0.0
    found = kind(words=512).encode_and_save(w, *[np.zeros((512, 9))] * (kind != KernelWords))[0]
    expected = XNORWeight().encode(w)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.scale, expected.scale)
    assert (found.bits, found.encoding, found.per) == (expected.bits, expected.encoding, expected.per)


def test_the_nearest_word_by_brute_force():
    w, quantizer = normal(3, 3, 6, 5), KernelWords(words=20, seed=3)
    book = random_words(20, 3)
    assert len(set(book)) == 20
    signs = 2 * BITS[book].astype(np.float64) - 1
    for i, o in np.ndindex(6, 5):
        distance = np.square(signs - w[:, :, i, o].reshape(9).astype(np.float64)).sum(axis=1)
        np.testing.assert_array_equal(quantizer.encode(w).values[:, :, i, o].reshape(9), BITS[book[distance.argmin()]])


def test_the_gradient_of_latent_kernels():
    w, g = 1.2 * normal(3, 3, 2, 4), normal(3, 3, 2, 4, seed=1)
    leaf = Tensor(w, requires_grad=True)
    KernelWords(8)(leaf).backward(g)
    np.testing.assert_allclose(leaf.grad, g * np.abs(w).mean(axis=(0, 1, 2)) * (np.abs(w) <= 1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"words are kernels of 3 x 3, got a weight of shape \(5, 5, 2, 4\)"):
        KernelWords(8).encode(normal(5, 5, 2, 4))


@pytest.mark.parametrize("columns", [3, 7])
def test_sinkhorn_and_its_gradient(columns):
    logits, g = np.random.default_rng(0).normal(size=(7, columns)), np.random.default_rng(1).normal(size=(7, columns))
    steps = sinkhorn(logits, 6)
    whole = np.pad(logits, ((0, 0), (0, 7 - columns)))  # the same with every column of its own
    for _ in range(6):
        whole = whole - np.log(np.exp(whole).sum(axis=1, keepdims=True))
        whole = whole - np.log(np.exp(whole).sum(axis=0, keepdims=True))
    np.testing.assert_allclose(np.exp(steps[-1][:, :columns]), np.exp(whole[:, :columns]), rtol=1e-10)
    found, expected = sinkhorn_grad(g, steps), np.zeros_like(logits)
    for i in np.ndindex(logits.shape):
        unit = np.zeros_like(logits)
        unit[i] = 1e-6
        high, low = (np.exp(sinkhorn(logits + step, 6)[-1][:, :columns]) for step in (unit, -unit))
        expected[i] = np.sum(g * (high - low)) / 2e-6
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_the_assignment_repeats_no_word():
    worth = np.random.default_rng(0).random((512, 40))
    assert len(set(assigned(worth))) == 40
    assert assigned(np.array([[1.0, 0.9], [0.2, 0.0], [0.0, 0.3]])).tolist() == [0, 2]


def test_a_selection_gets_gradient_in_its_own_steps_only():
    quantizer, w, g = SelectedWords(words=6, every=2), normal(3, 3, 4, 5), normal(3, 3, 4, 5, seed=1)
    grads = []
    for step in range(4):
        quantizer.scales.grad = None
        quantizer.advance(step / 4)
        quantizer(Tensor(w, requires_grad=True)).backward(g)
        grads.append(quantizer.scales.grad)
        assert len(set(quantizer.book())) == 6
    assert [grad is not None for grad in grads] == [True, False, True, False] and np.abs(grads[0]).max() > 0
    quantizer.eval()
    quantizer.advance(1.0)
    before = quantizer.chosen.copy()
    quantizer.encode_and_save(w, quantizer.scales.data)
    np.testing.assert_array_equal(quantizer.chosen, before)


def test_learned_words_follow_their_patterns_without_repetition():
    quantizer, w, g = LearnedWords(words=5, every=1), normal(3, 3, 4, 5), normal(3, 3, 4, 5, seed=1)
    patterns = quantizer.scales.data
    patterns[0] = patterns[1] = 0.5
    patterns[2, 3], kept = 5e-4, BITS[quantizer.book()[2], 3]
    quantizer.advance(0.0)
    quantizer(Tensor(w, requires_grad=True)).backward(g)
    book = quantizer.book()
    assert len(set(book)) == 5 and book[0] == 511 and BITS[book[2], 3] == kept
    np.testing.assert_array_equal(patterns[1] >= 0, BITS[book[1]])
    index = quantizer.nearest(w, book)
    to_words = (g * np.abs(w).mean(axis=(0, 1, 2))).reshape(9, -1)
    expected = [to_words[:, index == j].sum(axis=1) for j in range(5)]
    np.testing.assert_allclose(quantizer.scales.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["words_random", "subbit", "kernel_selection"])
def test_networks_of_words_learn_resume_and_freeze(name, digits, tmp_path):
    whole = trainer_of(small(name), digits)
    assert whole.run() and whole.history[-1]["train_loss"] < whole.history[0]["train_loss"]
    first, steps = trainer_of(small(name), digits, checkpoint=tmp_path / "run.h5"), iter(range(100))
    assert not first.run(stop=lambda: next(steps) == 6)
    second = trainer_of(small(name), digits)
    second.resume(load_checkpoint(tmp_path / "run.h5"))
    with execution.use_kernels("float"):
        assert second.run()
    for key, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[key])
    net, x = whole.model.eval(), digits.images[:7]
    with no_grad(), execution.log() as records:
        expected = net(x).data
    assert "".join("01"[record.family != "float32"] for record in records) == "01110"
    save(tmp_path / "net.h5", net)
    with no_grad():
        np.testing.assert_array_equal(load(tmp_path / "net.h5").eval()(x).data, expected)
    frozen = bitnet.freeze(net)
    frozen.save(tmp_path / "net.npz")
    np.testing.assert_array_equal(bitnet.load(tmp_path / "net.npz")(x).data, expected)
    counts = word_counts(net)
    assert list(counts) == ["block1.conv", "block2.conv", "block3.conv"]
    assert all(count.sum() == size and (count > 0).sum() <= 16
               for count, size in zip(counts.values(), (64, 128, 256), strict=True))
    draw_words(tmp_path / "words.png", net, "words")
    assert (tmp_path / "words.png").stat().st_size > 5000


def test_training_with_all_words_is_training_with_signs(digits):
    states = []
    for name in ("words_random", "kernel_selection", "subbit"):
        trainer = trainer_of(small(name, words=512), digits)
        trainer.run()
        states.append({key: value for key, value in trainer.model.state_dict().items() if "quantizer" not in key})
    for state in states[1:]:
        for key, value in states[0].items():
            np.testing.assert_array_equal(value, state[key])


@pytest.mark.parametrize("words", [1, 2, 16, 64])
def test_a_codebook_takes_a_logarithm_of_bits_a_kernel(words):
    values = KernelWords(words).encode(normal(3, 3, 40, 50)).values
    planes, book = codebook.packed(values)
    count = len(np.unique(words_of(2.0 * values - 1)))
    assert planes.shape == (max(1, int(np.ceil(np.log2(count)))), 2000 // 8) and book.shape == (count, 2)
    np.testing.assert_array_equal(codebook.unpacked(planes, book, values.shape), values)
    with pytest.raises(ValueError, match="codebook of 1 words, got number 1"):
        codebook.unpacked(np.full((1, 250), 255, np.uint8), book[:1], values.shape)
    assert codebook.packed((normal(3, 3, 8, 8) > 0).astype(np.uint8)) is None  # as many words as kernels
    assert codebook.packed(np.ones((1, 1, 8, 8), np.uint8)) is None


def test_files_of_words_are_small(tmp_path):
    net = methods.RandomWords(words=16).apply(models.build("vgg", widths=(32, 64)), seed=0)
    frozen = bitnet.freeze(net)
    planes = {stage.name: stage["planes"].nbytes for stage in frozen.stages if stage["words"] is not None}
    assert planes == {"block1": 32 * 32 // 2, "block2": 32 * 64 // 2, "block3": 64 * 64 // 2}  # 4 bits a kernel


def test_whatever_a_file_may_hold():
    quantizer = KernelWords(words=3)
    quantizer.chosen[:] = np.nan, -7, 1e6
    assert ((quantizer.book() >= 0) & (quantizer.book() < 512)).all()
    random.set_state((0, 0))
    with pytest.raises(ValueError, match="a network with binary 3 x 3 kernels"):
        draw_words("nowhere.png", layers.Sequential(layers.Conv2d(2, 3, 3)), "")
    with pytest.raises(ValueError, match="the number of words must be a whole number from 1 to 512, got 513"):
        methods.KernelSelection(words=513)
