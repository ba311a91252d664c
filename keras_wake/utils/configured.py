"""What Keras saves as a class and the arguments of its constructor."""

from typing import Self

from keras_wake.utils.types import Config


class Configured:
    """Base of attacks, objectives and schedules.

    A class names in `_arguments` the arguments of its constructor that it
    keeps as attributes, or overrides `get_config`.
    """

    _arguments: tuple[str, ...] = ()

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in self._arguments}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Makes the object again from `get_config()`."""
        return cls(**config)

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({settings})"
