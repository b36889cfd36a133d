"""Binarized Neural Networks on ImageNet (Wu, Lin and Tang, arXiv:1604.03058)."""

from bitnet.methods.base import Recipe, falling
from bitnet.methods.bnn import BNN


class WuBNN(BNN):
    """Binarized Neural Network for ImageNet (arXiv:1604.03058): signs between a float first and a float last layer.

    The paper trains in three phases: on labels, on the softened classes of a teacher, on both. Here each takes a third of a
    run:

        options = training_of(net)
        Trainer(net, train, test, epochs=30, task=Distilled(options.pop("loss"), teacher), **options)

    Teacher, temperature and weights of the losses are not told in the sources at hand; a float network of the same shape can
    teach (``models.build("wu")``).
    """

    name, title, paper = "bnn_wu", "Binarized Neural Network for ImageNet", "1604.03058"
    ends, last_norm, glorot = False, False, False
    recipe = Recipe(network="wu", options={"shape": (28, 28, 1), "classes": 10, "width": 0.125}, schedule=falling(1e-3, 1e-5))
    published = {}
    note = "80 % top-5 on ImageNet from labels, 84.1 % in three phases, about; the network's sizes are this project's"
