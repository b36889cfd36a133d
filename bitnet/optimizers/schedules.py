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


class Tenths:
    """A tenth of ``lr`` from half of the run on, a hundredth from 5/6 on."""

    def __init__(self, lr):
        self.lr = lr

    def __call__(self, progress):
        return self.lr * 0.1 ** ((progress >= 1 / 2) + (progress >= 5 / 6))
