"""Kernels of 3 x 3 signs that are words of a small codebook.

A binary 3 x 3 kernel is one of 512 words; the nearest of all of them to a real kernel is its signs. Fewer words, n of them,
take log2(n) bits a kernel. Which n: at random and for good (``KernelWords``), learned as patterns (``LearnedWords``, the
predecessor), or selected by a permutation that is learned (``SelectedWords``). No program of the last paper is public: what it
does not tell at hand is this project's, and marked so.

Bit i of a word, 0 to 511, is the sign of tap i of a kernel in the order of its rows: 1 for +1.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from bitnet import random
from bitnet.checks import number, whole
from bitnet.codes import Codes
from bitnet.constraints import Clip
from bitnet.kernels.pointwise import elementary
from bitnet.module import Parameter, initial
from bitnet.quantizers.base import Quantizer

COUNT = 512
BITS = (np.arange(COUNT)[:, None] >> np.arange(9) & 1).astype(np.uint8)  # (word, tap)


def words_of(array):
    """The words of the signs of 3 x 3 kernels, sign(0) = +1: of an array (3, 3, in, out) an int64 array (in * out,)."""
    signs = array.reshape(9, -1) >= 0
    return (signs << np.arange(9)[:, None]).sum(axis=0)


def random_words(count, seed):
    """Different words, drawn from a seed: int64 array (count,)."""
    return np.random.default_rng(seed).permutation(COUNT)[:count]


class KernelWords(Quantizer):
    """3 x 3 kernels from a codebook of n words that were drawn at random and stay: what a learned choice is compared with.

    Forward:  w_q = alpha * u, u the word nearest to the kernel w, alpha = mean |w| of each filter
    Backward: dw = alpha * dw_q where |w| <= 1, else 0; alpha is a constant

    Nearest is what has the largest dot product with w, all words being as long; of equally near ones a kernel's own signs, else
    the first. With 512 words that is sign(w).

    Parameters
    ----------
    words : n, 1 to 512
    seed : of the draw

    Raises
    ------
    ValueError : other numbers of words; where it is used, kernels that are not 3 x 3.
    """

    one_scale = False

    def __init__(self, words=64, seed=0):
        super().__init__(1)
        self.words, self.seed = whole("the number of words", words, 1, COUNT), whole("the seed of words", seed)
        self.chosen = initial((words,), lambda: random_words(words, seed).astype(np.float64), np.float64)

    def flow(self, signal, visit):
        return signal._replace(bits=1, encoding="bipolar")

    def book(self):
        """The words in use: int64 array (n,)."""
        return np.nan_to_num(self.chosen).astype(np.int64) & (COUNT - 1)  # whatever a file may hold

    def nearest(self, array, book):
        """For each 3 x 3 kernel of an array the place of its word in a book: int64 array (in * out,)."""
        places = np.full(COUNT, -1)
        places[book[::-1]] = np.arange(len(book))[::-1]
        found = places[words_of(array)]
        left = np.flatnonzero(found < 0)
        taps = array.reshape(9, -1)[:, left]
        score = np.zeros((len(book), len(left)), array.dtype)
        for tap, bits in zip(taps, BITS[book].T, strict=True):  # in this order on any machine
            score += np.where(bits[:, None], tap, -tap)
        found[left] = score.argmax(axis=0)
        return found

    def encode_and_save(self, array, *scales):
        if array.ndim != 4 or array.shape[:2] != (3, 3):
            raise ValueError(f"words are kernels of 3 x 3, got a weight of shape {array.shape}")
        chance = self.choose(*scales)
        book = self.book()
        index = self.nearest(array, book)
        alpha = np.abs(array).mean(axis=(0, 1, 2), dtype=np.float64)
        values = np.ascontiguousarray(BITS[book[index]].T).reshape(array.shape)
        return Codes(values, 1, "bipolar", alpha, per="filter"), (array, alpha, index, chance)

    def grad(self, saved, grad_output):
        array, alpha, index, chance = saved
        to_words = grad_output * alpha.astype(grad_output.dtype)
        grad = to_words * (np.abs(array) <= 1)
        if self.scales is None:
            return grad
        if chance is None:
            return grad, None
        sums = [np.bincount(index, tap, self.words) for tap in to_words.reshape(9, -1)]
        return grad, self.grad_of_choice(np.stack(sums, axis=1), chance).astype(self.scales.data.dtype)

    def choose(self, *scales):
        """Renew the words, where it is time to; what ``grad_of_choice`` wants to know, or None where nothing is learned now."""
        return None


class ChangingWords(KernelWords):
    """What both ways to learn words have in common: they are renewed in the first step and then in each ``every``-th one."""

    due = False

    def __init__(self, words, every, seed):
        super().__init__(words, seed)
        self.every = whole("the steps from one choice of words to the next", every, 1)
        self.steps = initial((1,), lambda: np.zeros(1), np.float64)  # a buffer, so that a resumed run keeps the beat
        self.progress = 0.0

    def advance(self, progress):
        self.due, self.progress = self.training and self.steps[0] % self.every == 0, progress
        self.steps += 1
        return False


class LearnedWords(ChangingWords):
    """Words that are the signs of learned patterns (Sub-bit Neural Networks, Wang et al., arXiv:2110.09195; yikaiw/SNN).

    Forward:  as ``KernelWords``; the words are the signs of patterns p (n, 9), a tap with |p| < 1e-3 keeping its former sign
    Backward: each ``every``-th step dp = sum of alpha * dw_q over the kernels of a word; otherwise p gets no gradient

    A word that comes twice is replaced by one that is not in use, drawn at random. p stays within +-3.

    Parameters
    ----------
    words, seed : see ``KernelWords``
    every : steps, 25 in the authors' program
    """

    def __init__(self, words=64, every=25, seed=0):
        super().__init__(words, every, seed)
        self.scales = Parameter(initial((words, 9), lambda: 2 * BITS[random_words(words, seed)] - np.float32(1)),
                                constraint=Clip(3.0))

    def choose(self, patterns):
        if not (self.training and self.due):
            return None
        before = BITS[self.book()]
        book = (np.where(np.abs(patterns) < 1e-3, before, patterns >= 0) << np.arange(9)).sum(axis=1)
        _, first = np.unique(book, return_index=True)
        again = np.setdiff1d(np.arange(self.words), first)
        if len(again):
            unused = np.setdiff1d(np.arange(COUNT), book)
            book[again] = unused[np.argsort(random.uniform(unused.shape), kind="stable")[:len(again)]]
            patterns[again] = 2 * BITS[book[again]] - patterns.dtype.type(1)
        self.chosen[...] = book
        return ()

    def grad_of_choice(self, to_words, chance):
        return to_words


class SelectedWords(ChangingWords):
    """Words selected without repetition by a learned permutation (Sparse Kernel Selection, Wang et al., arXiv:2303.14470).

    Forward:  as ``KernelWords``. Each ``every``-th step the n words are selected anew: X (512, n) is learned,
        P_S = Sinkhorn((X + noise * Gumbel) / temperature), and P, the permutation's first n columns, is the assignment of
        different words to the n slots with the largest sum of P_S (Hungarian method); u_j is the word that P gives slot j
    Backward: of u: dU_j = sum of alpha * dw_q over the kernels of word j; dP = B dU^T, B (512, 9) all words; straight through
        from P to P_S, and exactly through Sinkhorn to X. In other steps X gets no gradient

    Evaluation takes the words of the last selection. This project's choices: temperature, noise and its fall to 0 within a run
    (so that the last selection is that of X), the learning rate of X, ten times the others', how often words are selected.

    Parameters
    ----------
    words, seed : see ``KernelWords``; the seed draws the first X
    every : steps
    temperature, noise : positive
    rounds : of Sinkhorn's method
    """

    def __init__(self, words=64, every=10, temperature=0.1, noise=0.01, rounds=10, seed=0):
        super().__init__(words, every, seed)
        self.temperature = number("a temperature", temperature, 1e-6)
        self.noise = number("the noise of a selection", noise, 0)
        self.rounds = whole("the rounds of Sinkhorn's method", rounds, 1)
        shape = COUNT, words
        self.scales = Parameter(
            initial(shape, lambda: (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)),
            lr_factor=10.0)
        if self.scales.data.flags.writeable:
            self.chosen[...] = assigned(self.scales.data)

    def choose(self, logits):
        if not (self.training and self.due) or self.words == COUNT:
            return None
        uniform = np.clip(random.uniform(logits.shape).astype(np.float64), 1e-12, 1 - 1e-12)
        gumbel = -elementary.log(-elementary.log(uniform))
        rounds = sinkhorn((logits + (1 - self.progress) * self.noise * gumbel) / self.temperature, self.rounds)
        self.chosen[...] = assigned(elementary.exp(rounds[-1])[:, :self.words])
        return rounds

    def grad_of_choice(self, to_words, rounds):
        to_choice = sum(np.where(bits[:, None], tap, -tap) for bits, tap in zip(BITS.T, to_words.T, strict=True))  # B dU^T
        return sinkhorn_grad(to_choice, rounds) / self.temperature


def assigned(worth):
    """Different rows for all columns with the largest sum of worth (rows, columns), rows >= columns: int64 (columns,)."""
    rows, columns = linear_sum_assignment(np.nan_to_num(worth), maximize=True)  # in a rehearsal it may be anything
    return rows[np.argsort(columns)]


def sinkhorn(logits, rounds):
    """Sinkhorn's method on exp(logits) in logarithms: rows, then columns, are brought to a sum of 1, so many times.

    Where there are fewer columns than rows, N - n further ones are 0 in ``logits``; being alike, they are one column that
    counts N - n times in the sum of a row.

    Parameters
    ----------
    logits : float64 array (N, n)

    Returns
    -------
    steps : list of arrays (N, n or n + 1), after each half round; exp of the last one is nearly doubly stochastic
    """
    more = logits.shape[0] - logits.shape[1]
    current, steps = np.pad(logits, ((0, 0), (0, more > 0))), []
    times = np.append(np.ones(logits.shape[1]), [more] * (more > 0))
    for _ in range(rounds):
        for axis, weight in ((1, times), (0, 1.0)):
            high = current.max(axis=axis, keepdims=True)
            total = (elementary.exp(current - high) * weight).sum(axis=axis, keepdims=True)
            current = current - high - elementary.log(total)
            steps.append(current)
    return steps


def sinkhorn_grad(grad, steps):
    """Gradient with respect to the logits of ``sinkhorn``, of one with respect to exp(its last step), (N, n): (N, n)."""
    count = grad.shape[1]
    more = steps[-1].shape[1] - count
    times = np.append(np.ones(count), [grad.shape[0] - count] * more)
    grad = np.pad(grad, ((0, 0), (0, more))) * elementary.exp(steps[-1])
    for i, step in reversed(list(enumerate(steps))):
        axis, weight = (1, times) if i % 2 == 0 else (0, 1.0)
        grad = grad - elementary.exp(step) * weight * grad.sum(axis=axis, keepdims=True)
    return grad[:, :count]
