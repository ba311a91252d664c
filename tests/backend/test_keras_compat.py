"""The names private to Keras are there, and mean what is expected of them."""

import keras
import numpy as np
import pytest

import keras_wake as kw
from keras_wake.backend import keras_compat

BACKEND = keras.backend.backend()
DATA = np.zeros((6, 4)), np.zeros((6, 3))


def sequential(kind=keras.Sequential):
    dense = keras.layers.Dense(3, activity_regularizer="l2")
    return kind([keras.Input((4,)), dense, keras.layers.ReLU()])


def compiled(model, optimizer="sgd", **arguments):
    model.compile(optimizer, loss="mse", **arguments)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_layers_and_graph_of_a_model():
    inner = sequential()
    outer = keras.Sequential([keras.Input((4,)), inner])
    found = list(keras_compat.flatten_layers(outer))
    assert found[0] is outer
    assert {*inner.layers} <= {*found}
    calls = keras_compat.calls_of(keras_compat.functional_of(inner))
    assert [call.operation for call in calls][-2:] == inner.layers
    subclassed = Subclassed()
    assert keras_compat.functional_of(subclassed) is subclassed
    assert keras_compat.calls_of(subclassed) == []
    subclassed.build((None, 4))
    assert [*keras_compat.build_shape(subclassed).values()] == [(None, 4)]


def test_producer_and_inputs_of_a_tensor():
    x = keras.Input((4,))
    dense = keras.layers.Dense(3)
    first, second = dense(x), dense(x + 1)
    assert keras_compat.producer_of(first) == (dense, 0)
    assert keras_compat.producer_of(second) == (dense, 1)
    assert keras_compat.inputs_of(dense, 0)[0] is x


def test_what_is_given_to_compile():
    model = compiled(sequential(), metrics=["mae"])
    metrics = keras_compat.compiled_metrics(model)
    assert isinstance(metrics, keras.metrics.Metric)
    assert keras_compat.compiled_metrics(compiled(sequential())) is None
    # Saved optimizers name public classes.
    config = model.get_compile_config()["optimizer"]
    assert keras_compat.of_any_backend(config)["module"] == "keras.optimizers"


def test_what_fit_does_is_seen():
    losses, validations = [], []

    class Reads(keras.Sequential):
        def compute_loss(self, *args, **kwargs):
            losses.append(len(keras_compat.losses_in_scope(self)))
            return super().compute_loss(*args, **kwargs)

        def evaluate(self, *args, **kwargs):
            validations.append(keras_compat.is_validation_of_fit(kwargs))
            return super().evaluate(*args, **kwargs)

    model = compiled(sequential(Reads))
    assert not keras_compat.losses_in_scope(model)
    model.fit(*DATA, validation_data=DATA, verbose=0)
    model.evaluate(*DATA, verbose=0)
    assert validations == [True, False]
    if BACKEND == "jax":
        assert 1 in losses


def test_what_an_optimizer_remembers():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = keras.optimizers.SGD(
        schedule, use_ema=True, gradient_accumulation_steps=2
    )
    assert keras_compat.trained_variables(optimizer) == []
    model = compiled(sequential(), optimizer)
    model.fit(*DATA, batch_size=2, verbose=0)
    assert [id(v) for v in keras_compat.trained_variables(optimizer)] == [
        id(v) for v in model.trainable_variables
    ]
    assert int(keras_compat.batches_seen(optimizer)) == 3
    assert int(optimizer.iterations) == 1
    attributes = vars(optimizer)
    for name in (keras_compat.AVERAGES, keras_compat.ACCUMULATED_GRADIENTS):
        assert len(attributes[name]) == 2
    assert set(keras_compat.ALL_VARIABLES) <= set(attributes)
    assert attributes[keras_compat.RATE] is schedule
    assert keras_compat.initial_rate(optimizer) is schedule
    constant = keras.optimizers.SGD(0.1)
    rate = vars(constant)[keras_compat.RATE]
    assert rate is keras_compat.initial_rate(constant)


def test_counters_of_callbacks(tmp_path):
    for kind, names in keras_compat.COUNTERS.items():
        callback = kind(str(tmp_path / "a.keras"))
        assert all(hasattr(callback, name) for name in names)


@pytest.mark.skipif(BACKEND != "jax", reason="State of a JAX step")
def test_state_of_a_jax_step_is_put_into_the_variables():
    model = compiled(sequential())
    values = [np.full(v.shape, 2.0) for v in model.trainable_variables]
    keras_compat.set_jax_state(model, {"trainable_variables": values})
    model.jax_state_sync()
    for variable in model.trainable_variables:
        assert np.all(keras.ops.convert_to_numpy(variable) == 2)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Overridden there")
def test_what_is_overridden_exists():
    assert hasattr(keras.Model, "_maybe_symbolic_build")
    assert kw.WakeModel._maybe_symbolic_build is not (
        keras.Model._maybe_symbolic_build
    )
