"""What all attacks share: checks, compilation, and the final guarantee.

An attack's author writes `run`. Users call the attack on a classifier and a
batch; a training step calls `perturb` with tensors it has checked already.
Both end in the same projection, so that no attack leaves its threat model.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_wake import backend
from keras_wake.attacks.threat_model import ThreatModel
from keras_wake.backend import numerics
from keras_wake.backend.compile_cache import PerModel
from keras_wake.data.batches import checked_batch
from keras_wake.data.classifier import check_classifier
from keras_wake.data.classifier import image_shape
from keras_wake.utils import validate
from keras_wake.utils.seeds import CounterSeed


class Attack:
    """Base of all attacks.

    Args:
        norm: `"linf"` or `"l2"`.
        epsilon: Radius in pixel units of [0, 1]. Defaults to `None`: 8/255
            for ℓ∞, 128/255 for ℓ2.
        bounds: Smallest and largest pixel value.
    """

    def __init__(
        self,
        norm: str = "linf",
        epsilon: float | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.threat_model = ThreatModel(norm, epsilon, bounds)
        self._compiled = PerModel()

    @property
    def norm(self) -> str:
        """Name of the norm."""
        return self.threat_model.norm

    @property
    def epsilon(self) -> float:
        """Radius in pixel units."""
        return self.threat_model.epsilon

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value."""
        return self.threat_model.bounds

    def run(self, classifier: Callable, x: Any, labels: Any, seed: Any) -> Any:
        """Finds perturbations; what a subclass defines.

        Args:
            classifier: Maps images (batch, ...) to logits (batch, K).
            x: Float32 tensor (batch, ...), clean images.
            labels: Float32 tensor (batch, K), one-hot or soft.
            seed: What `keras.random` functions take as `seed`.

        Returns:
            Float32 tensor of perturbations, same shape as `x`.
        """
        raise TypeError(
            f"`{type(self).__name__}` must define "
            "`run(classifier, x, labels, seed)`."
        )

    def perturb(self, classifier: Any, x: Any, labels: Any, seed: Any) -> Any:
        """Adversarial images inside a step that is being compiled.

        Args:
            classifier: `keras.Model` that returns logits.
            x: Float32 tensor (batch, ...), images within the bounds.
            labels: Float32 tensor (batch, K), one-hot or soft.
            seed: What `keras.random` functions take as `seed`.

        Returns:
            Float32 tensor like `x`, inside the ball around `x` and inside
            the bounds, without a gradient.
        """
        x = ops.convert_to_tensor(x, "float32")
        labels = ops.convert_to_tensor(labels, "float32")
        self.threat_model.check_images(x)
        return self._guaranteed(self.run(classifier, x, labels, seed), x)

    def _guaranteed(self, delta: Any, x: Any) -> Any:
        """x + δ, finite, in the ball around `x` and in the bounds."""
        delta = numerics.finite(ops.convert_to_tensor(delta))
        delta = self.threat_model.project(delta, x)
        # Once more after the addition, which rounds.
        return ops.stop_gradient(ops.clip(x + delta, *self.bounds))

    def __call__(
        self, classifier: Any, x: Any, y: Any, seed: int | None = None
    ) -> Any:
        """Attacks one batch of images.

        What is compiled for a classifier is used again, until a public
        attribute of a layer is another number, text or function.

        Args:
            classifier: Built `keras.Model` that returns logits (batch, K).
            x: Float array (batch, ...), images within the bounds.
            y: Integer array (batch,), or one-hot or soft labels (batch, K).
            seed: Integer for random numbers that are the same in every
                call. Defaults to `None`: new ones in every call, drawn from
                Keras's global generator (`keras.utils.set_random_seed`).

        Returns:
            Float32 tensor like `x`: x + δ, within the threat model.

        Raises:
            TypeError: If `classifier` is no model, or for a wrong dtype of
                images or labels.
            ValueError: If the classifier does not return logits, for images
                outside the bounds or with NaN, or for labels that name no
                class.
        """
        return self._call(classifier, x, y, seed)

    def _call(
        self, classifier: Any, x: Any, y: Any, seed: int | None, *more: Any
    ) -> Any:
        """A call; `more` are further arguments of `_make_seed`."""
        if not isinstance(classifier, keras.Model):
            check_classifier(classifier)
        run, num_classes = self._compiled.get(classifier, self._compile)
        shape = image_shape(classifier)
        x, labels = checked_batch(
            x, y, num_classes, self.bounds, "of the batch", shape
        )
        if seed is None:
            seed = keras.random.randint((), 0, 2**31 - 1)
        else:
            seed = validate.seed(seed=seed)
        return run(x, labels, ops.cast(seed, "uint32"), *more)

    def _compile(self, reference: Callable) -> tuple[Callable, int]:
        num_classes = check_classifier(reference())

        def run(x: Any, labels: Any, *seed: Any) -> Any:
            return self.perturb(reference(), x, labels, self._make_seed(*seed))

        return backend.compile(run, reference), num_classes

    def _make_seed(self, seed: Any, *more: Any) -> Any:
        """What `perturb` takes as seed, from the tensors of a call."""
        return CounterSeed(seed)

    def __setattr__(self, name: str, value: Any) -> None:
        # A change would reach some compiled steps and not others.
        own = getattr(type(self), name, None)
        is_setting = name in self.__dict__ or (
            isinstance(own, property) and own.fset is None
        )
        if is_setting and not name.startswith("_"):
            raise AttributeError(
                f"The settings of an attack are fixed. Make another one: "
                f"`{type(self).__name__}(..., {name}={value!r})`."
            )
        super().__setattr__(name, value)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "bounds": list(self.bounds),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Attack":
        """Makes the attack again from `get_config()`."""
        return cls(**config)

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({settings})"
