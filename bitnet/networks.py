"""Networks by name. A file in models/ is a network: a function that returns a tree, decorated with ``network(name)``."""

NETWORKS = {}


def network(name):
    """Decorate a function, all of whose arguments have defaults, as the network of that name."""
    def enter(function):
        if name in NETWORKS and NETWORKS[name].__module__ != function.__module__:
            raise ValueError(f"there are two networks of the name {name!r}, of {NETWORKS[name].__module__} and "
                             f"{function.__module__}")
        NETWORKS[name] = function
        return function
    return enter


def names():
    """All networks."""
    return list(NETWORKS)


def build(name, **options):
    """The float network of that name, with initial weights.

    Raises
    ------
    ValueError : there is none, or it does not take these options.
    """
    if name not in NETWORKS:
        raise ValueError(f"the network must be one of {', '.join(NETWORKS)}, got {name!r}")
    try:
        return NETWORKS[name](**options)
    except TypeError as error:
        raise ValueError(f"the network {name!r} does not take these options: {options}") from error
