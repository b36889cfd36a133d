"""Single pictures: which class a network sees in a file."""

import math
import sys

from bitnet import functional
from bitnet.datasets import DataError, prepare_for
from bitnet.storage import CheckpointError, plain
from bitnet.tensor import no_grad

LARGEST = 1 << 24  # numbers of a picture that a network may ask for


def classify(network, path):
    """The class of a picture.

    Parameters
    ----------
    network : Module in eval mode, or a frozen network, which tells the shape of its pictures
    path : str or Path of an image file, made like those that the network was trained on (``datasets.prepare_for``)

    Returns
    -------
    name : str         # of the class, its number where classes have no names
    probability : float

    Raises
    ------
    DataError : no picture, or one in which a network of MNIST's kind sees no digit.
    ValueError : a network that does not tell classes of pictures.
    """
    shape = network.input_shape
    if shape is None or len(shape) != 3 or shape[2] not in (1, 3) or math.prod(shape) > LARGEST:
        raise ValueError(f"expected a network for pictures that tells their size, found one for {shape}")
    # of a network that does not tell: grey ones are MNIST's, whose pictures are made in its manner
    guess = "fit" if shape[0] != shape[1] else "ink" if shape[2] == 1 else "photo"
    kind = getattr(network, "pictures", None) or guess
    image = prepare_for(path, kind, shape)
    try:
        with no_grad():
            probabilities = functional.softmax(network(image[None]).data)[0]
        if probabilities.ndim != 1 or len(network.classes or probabilities) != len(probabilities):
            raise ValueError(f"it gives numbers of shape {probabilities.shape}")
    except ValueError as error:  # the picture is as the network says
        raise ValueError(f"expected a network that tells classes of pictures of {shape}, found another one: "
                         f"{plain(error)}") from None
    best = int(probabilities.argmax())
    return plain(network.classes[best]) if network.classes else str(best), float(probabilities[best])


def print_predictions(network, model, images, program):
    """A line for each picture: path, class, probability. What is no picture is told on stderr and does not stop the rest.

    Parameters
    ----------
    model : Path of the network, and program : its name, for messages
    images : paths

    Returns
    -------
    code : int   # of the exit: 2 where a picture could not be read

    Raises
    ------
    CheckpointError : a network that does not tell classes of pictures.
    """
    code = 0
    for path in images:
        try:
            name, probability = classify(network, path)
            print(f"{plain(path, 2000)}  {name}  {probability:.4f}", flush=True)
        except DataError as error:
            print(f"{program}: {error}", file=sys.stderr)
            code = 2
        except ValueError as error:
            raise CheckpointError(f"{model}: {error}") from None
    return code
