"""The attack of a step on PyTorch with a traced network."""

import keras
import numpy as np
import pytest
from keras import ops
from small import data

import keras_wake as kw
from keras_wake import backend
from keras_wake.backend import numerics

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="for PyTorch alone"
)
PGD = kw.attacks.PGD(epsilon=0.1, step_size=0.05, steps=3)


class Counted(keras.layers.Layer):
    """Counts the calls of its Python code in evaluation mode."""

    calls = 0

    def call(self, x, training=False):
        Counted.calls += not training
        return x


class Noise(keras.layers.Layer):
    """Adds noise, in evaluation mode too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seeds)


class Decides(keras.layers.Layer):
    """Is another function for other images."""

    def call(self, x):
        if keras.backend.is_keras_tensor(x):
            return x
        return x if ops.mean(x) > 0.5 else -x


class Straight(keras.layers.Layer):
    """Rounds, with a gradient of its own."""

    def call(self, x):
        @ops.custom_gradient
        def rounded(x):
            def grad(*args, upstream=None):
                return args[0] if upstream is None else upstream

            return ops.round(8 * x) / 8, grad

        return rounded(x)


class Keeps(keras.layers.Layer):
    """Makes a tensor in its first call, and keeps it."""

    kept = None

    def call(self, x):
        if x.device.type == "meta":  # While Keras builds it.
            return x
        if self.kept is None:
            self.kept = ops.convert_to_tensor([0.5])
        return x * self.kept


def network(*layers):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            *layers,
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def trained(jit_compile, layer, attack, objective):
    model = kw.WakeModel(network(layer()), attack, objective)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=jit_compile)
    x, y = data(20)
    Counted.calls = 0
    # The last batch is smaller.
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    calls = Counted.calls
    found = model.evaluate(x, y, batch_size=8, verbose=0)
    return [*model.get_weights(), history.history["loss"], found], calls


@pytest.mark.parametrize(
    "objective, training", [("at", False), ("trades", False), ("at", True)]
)
def test_a_traced_network_gives_the_same_training(objective, training):
    attack = kw.attacks.PGD(
        epsilon=0.1, step_size=0.05, steps=3, training=training
    )
    given = Counted, attack, objective
    (plain, calls), (traced, once) = (
        trained(jit, *given) for jit in ("auto", True)
    )
    # The same operations on the same numbers.
    for old, new in zip(plain, traced, strict=True):
        np.testing.assert_array_equal(new, old)
    if not training:
        # Three steps for each of six batches, and the clean logits of TRADES;
        # for each of the two shapes, one call is traced and one is compared.
        assert (calls, once) == (18 if objective == "at" else 24, 4)


@pytest.mark.parametrize("layer", [Noise, Decides, Straight, Keeps])
def test_what_a_trace_would_change_is_refused(layer):
    with pytest.raises(ValueError, match=r'Leave jit_compile="auto"'):
        trained(True, layer, PGD, "at")


def test_few_sizes_of_a_batch_are_traced():
    attack = kw.attacks.APGD(epsilon=0.1, steps=5)
    (plain, calls), (traced, fewer) = (
        trained(jit, Counted, attack, "at") for jit in (False, True)
    )
    for old, new in zip(plain, traced, strict=True):
        np.testing.assert_array_equal(new, old)
    assert fewer < calls


def test_a_call_is_that_of_the_network_as_it_is_now():
    model = network()
    x = ops.convert_to_tensor(data(8)[0])

    def same():
        found = backend.jit(lambda classifier: classifier(x), model)()
        np.testing.assert_array_equal(
            ops.convert_to_numpy(found),
            ops.convert_to_numpy(model(x, training=False)),
        )

    same()
    model.set_weights([w + 0.1 for w in model.get_weights()])
    same()
    model.layers[0].activation = keras.activations.tanh
    same()


def test_half_precision_is_seen():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert backend.jit(numerics.computes_in_float16, model)()
