"""The teacher: a second network that computes what the classifier computes.

Keras copies a network by its configuration and its weights. What a layer
holds in addition to them (an adapted `Normalization`, an attribute set later,
buffers of a PyTorch module) stays behind, and the copy is another function,
although all weights are equal. So this state is brought over, and the two are
compared.
"""

import copy
import pathlib
import tempfile
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.data.classifier import probe_images
from keras_wake.utils.types import Tensor

# Largest difference of the logits of two equal networks, relative to the
# largest logit: in float32, and in lower precision.
_TOLERANCE = 1e-4
_COARSE_TOLERANCE = 2e-2
# What Keras itself notes down on every layer.
_OF_KERAS = ("name", "path", "built", *vars(keras.layers.Layer()))


def copy_of(
    classifier: keras.Model, bounds: tuple[float, float]
) -> keras.Model:
    """A second network of the same architecture, weights and function.

    Args:
        classifier: Checked `keras.Model`.
        bounds: Smallest and largest pixel value.

    Raises:
        ValueError: If there is no way to make one.
    """
    images = probe_images(classifier, bounds)
    values = _values_for_zero_variables(classifier)
    errors: list[str] = []
    differences: list[str] = []
    for make in (_cloned, _saved_and_loaded):
        try:
            network = make(classifier)
            bring_over(classifier, network)
        except Exception as error:  # Of the constructors of any layer.
            errors.append(str(error))
            continue
        if _compute_the_same(classifier, network, images, values):
            # In a summary, the two are told apart by name.
            network.name = f"{classifier.name}_teacher"
            return network
        where = _first_different_layer(classifier, network, images)
        differences.append(
            "with the same weights, the copy computes something else, from "
            f"{where} on. What it computes with must be in its weights, or in "
            "its `get_config` and constructor.",
        )
    # A difference says more than the error of the other attempt.
    reason = differences[-1] if differences else errors[0]
    raise ValueError(
        f"The classifier {classifier.name!r} could not be copied for the "
        "teacher. In place of a `Lambda` layer, write a layer of your own; a "
        "subclassed model or layer needs `get_config`, and `from_config` that "
        "makes it again; quantise to float8 after training only. What went "
        f"wrong: {reason}"
    )


def bring_up_to_date(
    student: keras.Model,
    teacher: keras.Model,
    copied: tuple[keras.Variable, ...],
) -> None:
    """Gives the copy the attributes that were set on the student since.

    Raises:
        ValueError: If the student has other variables than `copied`, those
            that it had when it was copied.
    """
    own = student.variables
    if [*map(id, own)] != [*map(id, copied)]:
        raise _changed(
            student,
            f"{len(own)} variables, and {len(copied)} before, of which "
            f"{len({*map(id, own)} & {*map(id, copied)})} are the same",
        )
    bring_over_attributes(student, teacher)


def check_same_function(
    student: keras.Model, teacher: keras.Model, bounds: tuple[float, float]
) -> None:
    """Compares the two again, the teacher with the weights of the student.

    An object that a layer of the student refers to may have changed.

    Raises:
        ValueError: If they compute something else.
    """
    wrapper = keras.layers.TorchModuleWrapper
    layers = keras_compat.flatten_layers(student)
    if any(isinstance(each, wrapper) for each in layers):
        # A PyTorch module computes with its own weights, whatever values the
        # scope in `_logits` has for them, so the two cannot be compared.
        return
    values = {n: v.value for n, v in enumerate(student.variables)}
    values |= _values_for_zero_variables(student)
    images = probe_images(student, bounds)
    if not _compute_the_same(student, teacher, images, values):
        raise _changed(student, "with the same weights, different logits")


def compute_the_same(
    source: keras.Model,
    network: keras.Model,
    bounds: tuple[float, float],
    tolerance: float,
) -> bool:
    """Whether two networks with the same weights have the same logits.

    Args:
        source: Checked `keras.Model`.
        network: A copy of it.
        bounds: Smallest and largest pixel value.
        tolerance: Largest difference, relative to the largest logit.
    """
    images = probe_images(source, bounds)
    values = _values_for_zero_variables(source)
    return _compute_the_same(source, network, images, values, tolerance)


def _changed(student: keras.Model, how: str) -> ValueError:
    return ValueError(
        f"The classifier {student.name!r} has changed since this `WakeModel` "
        "was made, and the teacher is still a copy of what it was. Make a new "
        f"`WakeModel` with it. Received: {how}."
    )


def bring_over(source: keras.Model, network: keras.Model) -> None:
    """Copies everything that `source` computes with to `network`.

    Raises:
        ValueError: If the two share variables, or differ in their weights.
    """
    pairs = _pairs(source, network)
    for own, other in pairs:
        if getattr(own, "lora_enabled", False) and not other.lora_enabled:
            other.enable_lora(own.lora_rank, lora_alpha=own.lora_alpha)
    originals = {id(v) for v in source.variables}
    shared = [v.path for v in network.variables if id(v) in originals]
    if shared:
        raise ValueError(
            f"the copy shares {len(shared)} variables with the original, "
            f"{shared[0]!r} the first of them. `from_config` must make new "
            "layers"
        )
    network.set_weights(source.get_weights())
    bring_over_attributes(source, network)
    for value, other in zip(
        backend.buffers(source), backend.buffers(network), strict=True
    ):
        other.copy_(value)


def bring_over_attributes(source: keras.Model, network: keras.Model) -> None:
    """Copies attributes of the layers of `source` to those of `network`.

    They are numbers, texts, functions and arrays that are no weights.
    """
    for own, other in _pairs(source, network):
        for name, value in _attributes(own):
            if not _equal(vars(other).get(name), value):
                # Leaf by leaf: Keras's own lists and dictionaries hold the
                # layer that they belong to.
                copied = keras.tree.map_structure(_own_copy, value)
                setattr(other, name, copied)


def _pairs(
    source: keras.Model, network: keras.Model
) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """The layers of both in the same places; none where they do not match."""
    pairs = list(
        zip(
            keras_compat.flatten_layers(source),
            keras_compat.flatten_layers(network),
            strict=False,
        )
    )
    same = all(type(own) is type(other) for own, other in pairs)
    return pairs if same else []


def _attributes(layer: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    of_keras = type(layer).__module__.startswith("keras.")
    if of_keras and isinstance(layer, keras.Model):
        return
    # Private attributes of Keras's layers, and of Functional models, are not
    # copied.
    of_keras = of_keras or hasattr(layer, "outputs")
    for name, value in list(vars(layer).items()):
        hidden = name.startswith("_" if of_keras else ("_self_", "__"))
        if name not in _OF_KERAS and not hidden:
            if all(map(_is_value, keras.tree.flatten(value))):
                yield name, value


def _is_value(value: object) -> bool:
    """Whether it is a number, a text, a function or an array.

    A closure is not one: it may refer to layers of the original.
    """
    if isinstance(value, keras.Variable):  # A tensor on TensorFlow.
        return False
    if isinstance(value, types.FunctionType):
        return value.__closure__ is None
    plain = (bool, int, float, complex, str, bytes, type(None))
    arrays = (np.ndarray, np.generic)
    return isinstance(value, plain + arrays) or ops.is_tensor(value)


def _equal(value: object, other: object) -> bool:
    try:
        return type(value) is type(other) and bool(value == other)
    except (RuntimeError, TypeError, ValueError):  # Arrays: copied anew.
        return False


def _own_copy(value: Any) -> Any:
    return ops.copy(value) if ops.is_tensor(value) else copy.deepcopy(value)


def _cloned(classifier: keras.Model) -> keras.Model:
    network = keras.models.clone_model(classifier)
    if not network.built:
        network.build(classifier.input_shape)
    return network


def _saved_and_loaded(classifier: keras.Model) -> keras.Model:
    """Copies a network through a `.keras` file.

    It holds what layers save in addition to their weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "classifier.keras")
        with backend.saving_in_one_process():
            classifier.save(path)
        # It was made in this process, so it is as safe as the process is. The
        # copy is divided among devices as the classifier is.
        return keras.models.load_model(path, compile=False, safe_mode=False)


def _values_for_zero_variables(network: keras.Model) -> dict[int, Tensor]:
    """Values for the variables that are all 0, by their places.

    A layer whose weights are all 0, such as a head that starts at 0, hides
    differences in the layers before it.
    """
    rng = np.random.default_rng(1)
    return {
        place: rng.uniform(0.05, 0.15, variable.shape)
        for place, variable in enumerate(network.variables)
        if keras.backend.is_float_dtype(variable.dtype)
        and not backend.to_numpy(variable).any()
    }


def _compute_the_same(
    source: keras.Model,
    network: keras.Model,
    images: Tensor,
    values: dict[int, Tensor],
    tolerance: float | None = None,
) -> bool:
    """Whether both have the same logits, with these values of variables.

    A network that is random at inference cannot be compared: its copy counts
    as equal.
    """
    if tolerance is None:
        tolerance = _tolerance(source)
    expected, again = _logits(source, images, values, times=2)
    (logits,) = _logits(network, images, values)
    return _close(logits, expected, tolerance) or not _close(
        again, expected, tolerance
    )


def _logits(
    network: keras.Model,
    images: Tensor,
    values: dict[int, Tensor],
    times: int = 1,
) -> list[np.ndarray]:
    """Logits of so many calls, as float64 (batch, K); they leave no trace."""
    random_state = backend.random_state()
    variables = network.variables
    state = [(variables[place], value) for place, value in values.items()]
    try:
        with keras.StatelessScope(state_mapping=state):
            logits = [
                backend.without_gradient(
                    lambda: network(images, training=False)
                )
                for _ in range(times)
            ]
    finally:
        backend.set_random_state(random_state)
    return [
        np.asarray(ops.convert_to_numpy(ops.cast(each, "float32")), "float64")
        for each in logits
    ]


def _tolerance(network: keras.Model) -> float:
    fine = all(
        getattr(layer, "compute_dtype", None) not in ("float16", "bfloat16")
        and not getattr(layer, "quantization_mode", None)
        for layer in keras_compat.flatten_layers(network)
    )
    return _TOLERANCE if fine else _COARSE_TOLERANCE


def _close(values: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    finite = np.abs(expected[np.isfinite(expected)])
    scale = tolerance * finite.max(initial=0)
    return values.shape == expected.shape and np.allclose(
        values, expected, rtol=0, atol=scale, equal_nan=True
    )


def _first_different_layer(
    source: keras.Model, network: keras.Model, images: Tensor
) -> str:
    """The first layer that computes something else, for a message."""
    found = source
    if hasattr(source, "outputs") and hasattr(network, "outputs"):
        for own, other in zip(source.layers, network.layers, strict=False):
            until_own = keras.Model(source.inputs, own.output)
            until_other = keras.Model(network.inputs, other.output)
            if not _compute_the_same(until_own, until_other, images, {}):
                found = own
                break
    return f"layer {found.name!r} (of type {type(found).__name__})"
