"""Argument checks shared by every public object of keras-wake.

Each function but the last two takes one keyword argument, named as the user's
argument, and returns its value in the plain Python type. An error message says
what was expected, what was received and, where it is short, what to do.
"""

import math
import numbers
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_wake.utils.types import Array


def name_and_value(kwargs: dict[str, Any]) -> tuple[str, Any]:
    """The only keyword argument: its name and its value."""
    ((name, value),) = kwargs.items()
    return name, value


def _fail(
    name: str,
    expected: str,
    value: object,
    hint: str = "",
    error: type[Exception] = ValueError,
) -> Exception:
    kind = f" (of type {type(value).__name__})" if error is TypeError else ""
    text = f"`{name}` must be {expected}. Received: {name}={value!r}{kind}."
    return error(f"{text} {hint}".rstrip())


def real(hint: str = "", **kwargs: object) -> float:
    """A finite real number."""
    name, value = name_and_value(kwargs)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _fail(name, "a real number", value, hint, TypeError)
    if not math.isfinite(value):
        raise _fail(name, "finite", value, hint)
    return float(value)


def positive(hint: str = "", **kwargs: object) -> float:
    """A real number above 0."""
    return _real_if(lambda x: x > 0, "greater than 0", hint, kwargs)


def not_negative(hint: str = "", **kwargs: object) -> float:
    """A real number of at least 0."""
    return _real_if(lambda x: x >= 0, "at least 0", hint, kwargs)


def fraction(hint: str = "", **kwargs: object) -> float:
    """A real number of at least 0 and below 1."""
    expected = "at least 0 and below 1"
    return _real_if(lambda x: 0 <= x < 1, expected, hint, kwargs)


def in_range(
    low: float, high: float, hint: str = "", **kwargs: object
) -> float:
    """A real number in the closed interval [low, high]."""
    expected = f"between {low:g} and {high:g}"
    return _real_if(lambda x: low <= x <= high, expected, hint, kwargs)


def _real_if(
    holds: Callable[[float], bool],
    expected: str,
    hint: str,
    kwargs: dict[str, object],
) -> float:
    number = real(hint, **kwargs)
    if not holds(number):
        name, value = name_and_value(kwargs)
        raise _fail(name, expected, value, hint)
    return number


def integer(minimum: int, hint: str = "", **kwargs: object) -> int:
    """A whole number that is at least `minimum`."""
    name, value = name_and_value(kwargs)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _fail(name, "an integer", value, hint, TypeError)
    if value < minimum:
        raise _fail(name, f"at least {minimum}", value, hint)
    return int(value)


def seed(**kwargs: object) -> int:
    """A whole number from 0 to 2³² − 1; each is another seed."""
    name, value = name_and_value(kwargs)
    number = integer(0, "", **kwargs)
    if number >= 2**32:
        hint = f"Take `{name}={number % 2**32}`, or any other seed in range."
        raise _fail(name, "below 2**32", value, hint)
    return number


def boolean(hint: str = "", **kwargs: object) -> bool:
    """True or False, not 1 or 0."""
    name, value = name_and_value(kwargs)
    if not isinstance(value, (bool, np.bool_)):
        raise _fail(name, "True or False", value, hint, TypeError)
    return bool(value)


def one_of(allowed: Iterable, hint: str = "", **kwargs: object) -> Any:
    """One of the values in `allowed`."""
    name, value = name_and_value(kwargs)
    allowed = tuple(allowed)
    if value not in allowed:
        names = ", ".join(repr(item) for item in allowed)
        raise _fail(name, f"one of {names}", value, hint)
    return value


def floats(**kwargs: object) -> Array:
    """An array of numbers, or what can be one, as float64."""
    name, value = name_and_value(kwargs)
    try:
        array = np.asarray(value)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        return array.astype("float64", copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array of numbers. "
            f"Received a {type(value).__name__}: {error}"
        ) from error


def path(hint: str = "", **kwargs: object) -> str:
    """The name of a file or folder, as text."""
    name, value = name_and_value(kwargs)
    if not isinstance(value, (str, os.PathLike)):
        expected = "a path, a text or `pathlib.Path`"
        raise _fail(name, expected, value, hint, TypeError)
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise _fail(name, "the name of a file or folder", value, hint)
    return text


def list_of_names(class_names: object) -> list[str]:
    """Names of classes as a list of texts that can be printed."""
    if isinstance(class_names, (str, bytes)):
        raise _fail("class_names", "a list of names", class_names)
    unordered = isinstance(class_names, (set, frozenset, Mapping))
    if unordered or not isinstance(class_names, Iterable):
        hint = ""
        if isinstance(class_names, Mapping):
            hint = (
                "From a dictionary of numbers and names: "
                "`[names[i] for i in range(len(names))]`."
            )
        expected = "a list of names, in the order of the classes"
        raise _fail("class_names", expected, class_names, hint, TypeError)
    names = [
        name.decode("utf-8", "surrogateescape")
        if isinstance(name, bytes)
        else str(name)
        for name in class_names
    ]
    # Bytes that are no UTF-8 are shown by their numbers, because neither a
    # terminal nor a figure can show them.
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


def names_of_classes(
    class_names: Sequence[str] | None, classes: int
) -> list[str]:
    """One text per class; the class numbers where there are no names."""
    if class_names is None:
        return [str(index) for index in range(classes)]
    if isinstance(class_names, (str, bytes)):
        wanted = f"a list with one name for each of the {classes} classes"
        raise _fail("class_names", wanted, class_names)
    names = list_of_names(class_names)
    if len(names) != classes:
        raise ValueError(
            f"`class_names` must hold one name for each of the {classes} "
            f"classes. Received {len(names)}: class_names={class_names!r}."
        )
    return names


def reason(error: Exception) -> str:
    """What an error says, as a part of a sentence of ours."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return str(error) or type(error).__name__
