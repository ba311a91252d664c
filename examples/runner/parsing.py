"""A parser of the command line, and converters of its values."""

import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that prints an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits with status 2."""
        self.exit(
            2, f"{self.prog}: error: {message}\n(see {self.prog} --help)\n"
        )


def at_least(minimum: int) -> Callable[[str], int]:
    """A converter to a whole number of at least `minimum`."""

    def convert(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {minimum}. "
                f"Received: {text!r}."
            )
        return int(text)

    return convert


def positive(text: str) -> float:
    """A converter to a number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"must be a number above 0. Received: {text!r}."
        )
    return value


def share(text: str) -> float:
    """A converter to a number of at least 0 and below 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f"must be at least 0 and below 1. Received: {text!r}."
        )
    return value


def validation_size(text: str) -> float:
    """A converter to a fraction below 1, or a whole number of images."""
    value = positive(text)
    if value > 1 and value != int(value):
        raise argparse.ArgumentTypeError(
            "must be a fraction below 1 or a whole number of images. "
            f"Received: {text!r}."
        )
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
