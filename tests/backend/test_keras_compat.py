"""The names private to Keras are there, and mean what is expected of them."""

import keras
import numpy as np
import pytest

import keras_wake as kw
from keras_wake.backend import keras_compat

BACKEND = keras.backend.backend()


def sequential():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activity_regularizer="l2"),
            keras.layers.ReLU(),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_layers_of_layers():
    outer = keras.Sequential([keras.Input((4,)), sequential()])
    found = list(keras_compat.flatten_layers(outer))
    assert found[0] is outer
    assert {"Dense", "ReLU"} <= {type(layer).__name__ for layer in found}


def test_graph_of_a_sequential_model():
    model = sequential()
    graph = keras_compat.functional_of(model)
    assert [type(c.operation).__name__ for c in keras_compat.calls_of(graph)][
        -2:
    ] == ["Dense", "ReLU"]
    subclassed = Subclassed()
    assert keras_compat.functional_of(subclassed) is subclassed
    assert keras_compat.calls_of(subclassed) == []


def test_producer_and_inputs_of_a_tensor():
    x = keras.Input((4,))
    dense = keras.layers.Dense(3)
    first, second = dense(x), dense(x + 1)
    assert keras_compat.producer_of(first) == (dense, 0)
    assert keras_compat.producer_of(second) == (dense, 1)
    assert keras_compat.inputs_of(dense, 0)[0] is x


def test_shape_that_a_subclassed_model_was_built_for():
    model = Subclassed()
    model.build((None, 4))
    assert list(keras_compat.build_shape(model).values()) == [(None, 4)]


def test_metrics_given_to_compile():
    model = sequential()
    model.compile("sgd", loss="mse", metrics=["mae"])
    metrics = keras_compat.compiled_metrics(model)
    assert isinstance(metrics, keras.metrics.Metric)
    model = sequential()
    model.compile("sgd", loss="mse")
    assert keras_compat.compiled_metrics(model) is None


def test_losses_of_a_stateless_pass():
    model = sequential()
    assert not keras_compat.losses_in_scope(model)
    seen = []

    class Reads(keras.Sequential):
        def compute_loss(self, *args, **kwargs):
            seen.append(list(keras_compat.losses_in_scope(self)))
            return super().compute_loss(*args, **kwargs)

    model = Reads(model.layers)
    model.compile("sgd", loss="mse")
    model.fit(np.zeros((2, 4)), np.zeros((2, 3)), verbose=0)
    if BACKEND == "jax":
        assert any(len(losses) == 1 for losses in seen)


def test_what_an_optimizer_remembers():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = keras.optimizers.SGD(schedule, gradient_accumulation_steps=2)
    assert keras_compat.trained_variables(optimizer) == []
    model = sequential()
    model.compile(optimizer, loss="mse")
    model.fit(np.zeros((6, 4)), np.zeros((6, 3)), batch_size=2, verbose=0)
    assert [id(v) for v in keras_compat.trained_variables(optimizer)] == [
        id(v) for v in model.trainable_variables
    ]
    assert int(keras_compat.batches_seen(optimizer)) == 3
    assert int(optimizer.iterations) == 1
    assert keras_compat.initial_rate(optimizer) is schedule


def test_validation_of_fit_is_told_from_other_evaluations():
    seen = []

    class Reads(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            seen.append(keras_compat.is_validation_of_fit(kwargs))
            return super().evaluate(*args, **kwargs)

    model = Reads(sequential().layers)
    model.compile("sgd", loss="mse")
    data = np.zeros((2, 4)), np.zeros((2, 3))
    model.fit(*data, validation_data=data, verbose=0)
    model.evaluate(*data, verbose=0)
    assert seen == [True, False]


def test_saved_optimizers_name_public_classes():
    model = sequential()
    model.compile(keras.optimizers.Adam(), loss="mse")
    config = model.get_compile_config()["optimizer"]
    assert keras_compat.of_any_backend(config)["module"] == "keras.optimizers"


def test_attributes_of_optimizers_that_hold_variables():
    optimizer = keras.optimizers.SGD(
        0.1, use_ema=True, gradient_accumulation_steps=2
    )
    optimizer.build(sequential().trainable_variables)
    names = (keras_compat.AVERAGES, keras_compat.ACCUMULATED_GRADIENTS)
    for name in (*names, "_trainable_variables"):
        assert len(vars(optimizer)[name]) == 2
    rate = vars(optimizer)[keras_compat.RATE]
    assert rate is keras_compat.initial_rate(optimizer)
    assert set(keras_compat.ALL_VARIABLES) <= set(vars(optimizer))


def test_counters_of_callbacks(tmp_path):
    for kind, names in keras_compat.COUNTERS.items():
        callback = kind(str(tmp_path / "a.keras"))
        assert all(hasattr(callback, name) for name in names)


@pytest.mark.skipif(BACKEND != "jax", reason="State of a JAX step")
def test_state_of_a_jax_step_is_put_into_the_variables():
    model = sequential()
    model.compile("sgd", loss="mse")
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
