"""Every name private to Keras that this package reads, and what needs it.

Keras may rename these in any release. `tests/backend/test_keras_compat.py`
says so first. Methods private to Keras that the package overrides are those
of the `Trainer` of each backend:

- `_maybe_symbolic_build` (TensorFlow): `fit` under several workers.
"""

from collections.abc import Iterator
from typing import Any

import keras

from keras_wake.utils.types import Tensor


def flatten_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The model, its layers and theirs: `Layer._flatten_layers`.

    Without it nothing finds the batch norm, dropout or seeds of nested layers.
    """
    return model._flatten_layers()


def functional_of(model: keras.Model) -> keras.Model:
    """The graph of a `Sequential`, else the model: `Sequential._functional`.

    Without it the graphs of sequential models are not compared on resuming.
    """
    return getattr(model, "_functional", None) or model


def calls_of(functional: keras.Model) -> list[Any]:
    """All calls of a Functional model, inputs first: `_nodes_by_depth`.

    Empty for other models. Without it graphs are not compared on resuming.
    """
    by_depth = getattr(functional, "_nodes_by_depth", None) or {}
    return [call for d in sorted(by_depth)[::-1] for call in by_depth[d]]


def producer_of(tensor: keras.KerasTensor) -> tuple[keras.Operation, int]:
    """The operation that made a tensor, and in which of its calls.

    `KerasTensor._keras_history`. Without it the head of a classifier is not
    found.
    """
    operation, call, _ = tensor._keras_history
    return operation, call


def inputs_of(operation: keras.Operation, call: Any) -> list[Tensor]:
    """The tensors that a call of an operation took: `_inbound_nodes`.

    Needed where `producer_of` is.
    """
    return operation._inbound_nodes[call].input_tensors


def build_shape(model: keras.Model) -> Any:
    """Shapes that a subclassed model was built for: `_build_shapes_dict`.

    Without it a subclassed model counts as not built.
    """
    return getattr(model, "_build_shapes_dict", None)


def compiled_metrics(model: keras.Model) -> Any:
    """The metrics given to `compile`, as one: `Trainer._compile_metrics`.

    Without it they are not computed in `evaluate`.
    """
    return model._compile_metrics if model.compiled else None


def losses_in_scope(model: keras.Model) -> list[Tensor]:
    """Losses that layers added in a JAX step: `Layer._losses_override`.

    Without it JAX trains without the regularisers.
    """
    return model._losses_override


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables an optimizer was built for: `_trainable_variables`.

    Without it a change of `trainable` between two fits is not noticed.
    """
    return getattr(optimizer, "_trainable_variables", None) or []


def batches_seen(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Number of batches, also of those accumulated: `_iterations`.

    `iterations` counts updates of the weights. Without it the position of a
    learning-rate schedule is not in a backup.
    """
    return optimizer._iterations


def initial_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """Learning rate or schedule given to an optimizer: `_learning_rate`.

    `learning_rate` is the rate now. Without it a backup cannot tell whether
    the script has another schedule.
    """
    return getattr(optimizer, "_learning_rate", None)


# Where Keras keeps the newest state between two steps of JAX. If the name
# changes, steps are slower.
JAX_STATE = "_jax_state"


def set_jax_state(model: keras.Model, state: dict[str, Any]) -> None:
    """What `jax_state_sync` puts into the variables: `_jax_state`.

    Without it Ctrl-C in a step of JAX loses the weights.
    """
    model._jax_state = state
    model._jax_state_synced = False


def is_validation_of_fit(arguments: dict[str, Any]) -> bool:
    """Whether `fit` calls `evaluate`: `_use_cached_eval_dataset`.

    Without it the teacher is not brought up to date before it is validated.
    """
    return bool(arguments.get("_use_cached_eval_dataset"))


def of_any_backend(config: Any) -> Any:
    """Configuration of an optimizer without classes private to PyTorch.

    Keras has its own `keras.src.backend.torch.optimizers` behind the public
    names. Without it a model saved on PyTorch loads on PyTorch only.
    """
    if not isinstance(config, dict):
        return config
    config = {key: of_any_backend(value) for key, value in config.items()}
    module = config.get("module") or ""
    if module.startswith("keras.src.backend.torch.optimizers"):
        config["module"] = "keras.optimizers"
    return config


# Attributes of optimizers that hold variables. Backups have values under these
# names; without one, its variables are not matched if a setting has changed.
RATE = "_learning_rate"
AVERAGES = "_model_variables_moving_average"
ACCUMULATED_GRADIENTS = "_accumulated_gradients"
# Attributes that list the variables of all others once more.
ALL_VARIABLES = ("_variables", "_trainable_variables")
# What callbacks count; without it, a resumed run saves after other batches,
# and TensorBoard draws batches at other steps.
COUNTERS: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    keras.callbacks.ModelCheckpoint: (
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}
