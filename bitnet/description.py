"""Objects as descriptions that JSON can hold, and back: how a network of one's own is saved without any code in the file.

A described object is what it is made with: its class keeps each argument of its constructor as an attribute of that name. Only
classes that the loading program has defined can be made from a description; it names no module and imports nothing.
"""

import inspect
from numbers import Integral, Real

DEPTH = 50  # how deep descriptions may be nested

_KINDS = {}


class Described:
    """Can be described: subclasses keep the arguments of their constructor as attributes of the same names."""

    prefix = ""                    # of the name in a description: a method and a constraint may share a name
    undescribed = ("self", "rng")  # arguments of which nothing is left once the object is made
    changing = ()                  # options that change in the course of a run: two descriptions may differ in them

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if _KINDS.get(cls.kind(), cls).__module__ != cls.__module__:
            raise TypeError(f"there is a {cls.kind()} in {_KINDS[cls.kind()].__module__} already, found another in "
                            f"{cls.__module__}")
        _KINDS[cls.kind()] = cls

    @classmethod
    def kind(cls):
        """The name in a description. Classes of other programs cannot take that of one of bitnet's."""
        ours = cls.__module__.split(".")[0] == "bitnet"
        return f"{cls.prefix}{cls.__name__}" if ours else f"own.{cls.prefix}{cls.__name__}"

    def options(self):
        """The arguments of the constructor, by name.

        Raises
        ------
        ValueError : one of them is no attribute.
        """
        own = type(self).__init__
        names = [] if own == object.__init__ else [
            name for name in inspect.signature(own).parameters if name not in self.undescribed]
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise ValueError(f"{type(self).__name__} cannot be saved: expected its argument {missing[0]!r} as an attribute of "
                             "that name, found none")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def rebuild(cls, **options):
        """An object from its ``options``."""
        return cls(**options)

    def traits(self):
        """What else there is to tell, by name; ``take_traits`` gets it after ``rebuild``."""
        return {}

    def take_traits(self, traits):
        """Take over what ``traits`` returned."""


def describe(value):
    """A Described object, a number, a text, or lists, tuples and dicts of these, in terms of JSON.

    Raises
    ------
    ValueError : anything else.
    """
    if isinstance(value, Described):
        traits = {"traits": describe(value.traits())} if value.traits() else {}
        return {"kind": value.kind(), "options": {name: describe(one) for name, one in value.options().items()}} | traits
    if isinstance(value, dict):
        return {"dict": {str(name): describe(one) for name, one in value.items()}}
    if isinstance(value, (list, tuple)):
        return [describe(one) for one in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise ValueError(f"expected numbers, texts and modules in a description, found {type(value).__name__}")


def rebuild(description, depth=0):
    """What ``describe`` described.

    Raises
    ------
    ValueError : it is no description, of a kind that is not defined here, or with options that the kind does not take.
    """
    if depth > DEPTH:
        raise ValueError(f"expected a description nested at most {DEPTH} deep, found a deeper one")
    if isinstance(description, list):
        return tuple(rebuild(one, depth + 1) for one in description)
    if not isinstance(description, dict):
        return description
    if description.keys() == {"dict"} and isinstance(description["dict"], dict):
        return {name: rebuild(one, depth + 1) for name, one in description["dict"].items()}
    if description.keys() - {"traits"} != {"kind", "options"} or not isinstance(description["options"], dict):
        raise ValueError(f"expected a description with kind and options, found {sorted(map(str, description))[:5]}")
    kind = description["kind"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"there is no {str(kind)[:60]!r} among the modules that this program has defined")
    options = {name: rebuild(one, depth + 1) for name, one in description["options"].items()}
    try:
        made = _KINDS[kind].rebuild(**options)
        made.take_traits(rebuild(description.get("traits", {"dict": {}}), depth + 1))
        return made
    except (TypeError, AttributeError, KeyError, IndexError, OverflowError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{kind} cannot be made with {str(options)[:200]}: {error}") from None


def differing(one, other, where=""):
    """Where two descriptions first differ, options that a run changes (``changing``) left out; "" where nowhere."""
    if isinstance(one, dict) and isinstance(other, dict):
        one, other = ({"traits": {}} | side if "kind" in side else side for side in (one, other))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        changing = _KINDS[one["kind"]].changing if one.get("kind") in _KINDS else ()
        if one.get("kind") != other.get("kind"):
            return where or "everything"
        for key in one:
            sides = one[key], other[key]
            if all(isinstance(side, dict) for side in sides):
                sides = (side.get("dict", side) if key == "traits" else side for side in sides)
                sides = ({name: value for name, value in side.items() if name not in changing} for side in sides)
            found = differing(*sides, where if key in ("dict", "options") else f"{where}.{key}".strip("."))
            if found:
                return found
        return ""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next((found for i, pair in enumerate(zip(one, other, strict=True))
                     if (found := differing(*pair, f"{where}.{i}".strip(".")))), "")
    return "" if one == other else where or "everything"
