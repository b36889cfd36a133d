"""Learning rates as functions of progress, the share of a run that is done: 0 to 1."""


def _positive(**rates):
    for name, rate in rates.items():
        if not rate > 0:
            raise ValueError(f"a schedule needs a positive {name}, got {rate}")


class StepDecay:
    """``lr``, multiplied by ``factor`` after every share ``every`` of the run: 1 / 3 for three equal parts."""

    def __init__(self, lr, factor=1.0, every=1.0):
        _positive(factor=factor, share=every)
        self.lr, self.factor, self.every = lr, factor, every

    def __call__(self, progress):
        # a share such as 6 epochs of 15 is met exactly, whatever its quotient was rounded to
        return self.lr * self.factor ** int(progress / self.every + 1e-9)


class ExponentialDecay:
    """From ``lr`` at the start to ``last`` at the end by equal factors; ``times`` over again."""

    def __init__(self, lr, last, times=1):
        _positive(lr=lr, last=last, times=times)
        self.lr, self.last, self.times = lr, last, times

    def __call__(self, progress):
        return self.lr * (self.last / self.lr) ** (self.times * progress % 1 if self.times > 1 else progress)


class Steps:
    """``lr``, times a factor from each share of the run on: ``Steps(lr, (1 / 2, 0.1), (5 / 6, 0.01))``, in rising order."""

    def __init__(self, lr, *steps):
        _positive(lr=lr, **{f"factor of step {i}": factor for i, (_, factor) in enumerate(steps)})
        self.lr, self.steps = lr, steps

    def __call__(self, progress):
        # a share such as 60 epochs of 90 is met exactly, whatever its quotient was rounded to
        return self.lr * next((factor for share, factor in reversed(self.steps) if progress >= share - 1e-9), 1)


class Tenths:
    """A tenth of ``lr`` from half of the run on, a hundredth from 5/6 on."""

    def __init__(self, lr):
        self.lr = lr

    def __call__(self, progress):
        return self.lr * 0.1 ** ((progress >= 1 / 2) + (progress >= 5 / 6))
