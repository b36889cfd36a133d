"""A handful of coloured digits, a small model, and a trainer of both."""

from training_fixtures import make, test, train  # noqa: F401
