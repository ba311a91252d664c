"""AWP moves kernels, and nothing else that has several axes."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_wake as kw

GAMMA = 0.05


class Tokens(keras.layers.Layer):
    """A class token and positions, as vision transformers add them."""

    def build(self, shape):
        self.token = self.add_weight((1, 1, shape[-1]), name="class_token")
        self.place = keras.layers.Embedding(shape[1] + 1, shape[-1])
        self.place.build(())

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        x = ops.concatenate([token, x], axis=1)
        return x + self.place(ops.arange(x.shape[1]))


def transformer():
    """Patches, tokens and one block of attention, as in DeiT."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(6, 2, strides=2, name="patches")(inputs)
    x = Tokens(name="tokens")(keras.layers.Reshape((4, 6))(x))
    x = x + keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.LayerNormalization()(x)[:, 0]
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def data():
    x = np.random.default_rng(0).random((8, 4, 4, 1), np.float32)
    return x, np.arange(8, dtype="int32") % 3


def test_only_kernels_move():
    network = transformer()
    objective = kw.objectives.AWP(gamma=GAMMA)
    x, y = map(ops.convert_to_tensor, data())
    labels = ops.one_hot(y, 3)
    before = {v.path: ops.convert_to_numpy(v) for v in network.variables}
    moved = objective.perturb_weights(network, {"adversarial": x}, labels)
    kernels = {variable.path for variable, _ in moved.steps}
    assert sorted(kernels) == sorted(
        [
            "patches/kernel",
            *(
                f"attention/{part}/kernel"
                for part in ("query", "key", "value", "attention_output")
            ),
            "head/kernel",
        ]
    )
    # Several axes and yet no kernel: what the test is about.
    several = {v.path for v in network.trainable_variables if len(v.shape) > 1}
    others = several - kernels
    assert {path.rsplit("/")[-1] for path in others} == {
        "bias",
        "class_token",
        "embeddings",
    }
    for variable in network.variables:
        old, new = before[variable.path], ops.convert_to_numpy(variable)
        if variable.path not in kernels:
            np.testing.assert_array_equal(new, old)
            continue
        # ‖v‖ = γ ‖w‖, in float32.
        size = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert size == pytest.approx(GAMMA, rel=1e-3)
    moved.restore()
    for variable in network.variables:
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable), before[variable.path], atol=1e-6
        )


class Plain(keras.layers.Layer):
    """A linear layer whose matrix has a name of its own."""

    def build(self, shape):
        self.matrix = self.add_weight((shape[-1], 3), name="matrix")

    def call(self, x):
        return x @ self.matrix


def test_a_classifier_without_kernels_is_refused():
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), Plain()]
    )
    model = kw.WakeModel(network, kw.attacks.FGSM(), "awp")
    model.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match=r"has none\. Received: .*matrix'"):
        model.fit(*data(), batch_size=8, verbose=0)


def test_is_found_by_name():
    found = kw.objectives.get("awp")
    assert type(found) is kw.objectives.AWP
    assert type(found.objective) is kw.objectives.AdversarialTraining
    with pytest.raises(ValueError, match="must not be an AWP itself"):
        kw.objectives.AWP("awp")


ON_JAX = keras.backend.backend() == "jax"


def spectral():
    return keras.layers.SpectralNormalization(
        keras.layers.Dense(3), power_iterations=12
    )


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_kernel_that_its_layer_reassigns_is_put_back(rate):
    """After a step it is what the layer makes of w, and the update."""
    kernels = {}
    for gamma in (0.0, 0.3):
        keras.utils.set_random_seed(0)
        layer = spectral()
        network = keras.Sequential(
            [keras.Input((4, 4, 1)), keras.layers.Flatten(), layer]
        )
        model = kw.WakeModel(
            network, kw.attacks.FGSM(), kw.objectives.AWP(gamma=gamma)
        )
        model.compile(keras.optimizers.SGD(rate))
        before = ops.convert_to_numpy(layer.kernel).copy()
        model.fit(*data(), epochs=2, batch_size=8, verbose=0)
        kernels[gamma] = ops.convert_to_numpy(layer.kernel)
    if rate == 0.0 and not ON_JAX:
        # On JAX, what a layer assigns to a kernel ends with the pass.
        sigma = np.linalg.svd(kernels[0.3])[1][0]
        assert sigma == pytest.approx(1, abs=1e-2)
    if rate == 0.0:
        # The power iteration has seen w + v, and stops early.
        np.testing.assert_allclose(kernels[0.3], kernels[0.0], atol=1e-2)
        if ON_JAX:
            np.testing.assert_allclose(kernels[0.3], before, atol=1e-6)
    else:
        # Gradients at w + v differ from those at w, by less than this.
        assert 1e-5 < np.abs(kernels[0.3] - kernels[0.0]).max() < 0.03


def test_a_constraint_holds_for_the_kernel_and_not_for_the_perturbed_one():
    keras.utils.set_random_seed(0)
    constraint = keras.constraints.UnitNorm()
    layer = keras.layers.Dense(3, kernel_constraint=constraint)
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), layer]
    )
    model = kw.WakeModel(
        network, kw.attacks.FGSM(), kw.objectives.AWP(gamma=0.3)
    )
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(*data(), batch_size=8, verbose=0)
    kernel = ops.convert_to_numpy(layer.kernel)
    # In float32.
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-5)


def test_an_optimizer_that_averages_perturbed_weights_is_refused():
    classifier = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten()])
    classifier.add(layers.Dense(2))
    model = kw.WakeModel(classifier, kw.attacks.FGSM(epsilon=0.1), "awp")
    with pytest.raises(ValueError, match="EMATeacher"):
        model.compile(keras.optimizers.SGD(0.1, use_ema=True))
    model.compile(keras.optimizers.SGD(0.1))
