"""A parser of the command line, and converters of its values."""

import argparse
import math
from collections.abc import Callable
from typing import Any
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that keeps the lines of its description.

    It prints an error in one line, without the usage.
    """

    def __init__(
        self,
        description: str | None,
        formatter_class: Any = argparse.RawDescriptionHelpFormatter,
        **options: Any,
    ):
        super().__init__(
            description=description, formatter_class=formatter_class, **options
        )

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits with status 2."""
        self.exit(
            2, f"{self.prog}: error: {message}\n(see {self.prog} --help)\n"
        )


def at_least(minimum: int) -> Callable[[str], int]:
    """A converter to a whole number of at least `minimum`."""
    wanted = f"a whole number of at least {minimum}"
    return lambda text: _number(text, lambda n: n >= minimum, wanted, int)


def positive(text: str) -> float:
    """A converter to a number above 0."""
    return _number(text, lambda value: 0 < value < math.inf, "a number above 0")


def share(text: str) -> float:
    """A converter to a number of at least 0 and below 1."""
    return _number(text, lambda value: 0 <= value < 1, "at least 0 and below 1")


def validation_size(text: str) -> float:
    """A converter to a fraction below 1, or a whole number of images."""
    wanted = "a fraction below 1 or a whole number of images"
    text = str(positive(text))
    return _number(text, lambda n: n <= 1 or n == int(n), wanted)


def _number(
    text: str, allowed: Callable[[Any], bool], wanted: str, kind: Any = float
) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise argparse.ArgumentTypeError(
            f"must be {wanted}. Received: {text!r}."
        )
    return value
