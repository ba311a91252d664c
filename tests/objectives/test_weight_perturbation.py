"""AWP moves kernels, and nothing else that has several axes."""

import keras
import numpy as np
import pytest
from keras import ops
from small import data
from small import fit
from small import network
from small import wake

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


def test_only_kernels_move():
    classifier = transformer()
    objective = kw.objectives.AWP(gamma=GAMMA)
    x, y = map(ops.convert_to_tensor, data(8))
    labels = ops.one_hot(y, 3)
    before = {v.path: ops.convert_to_numpy(v) for v in classifier.variables}
    moved = objective.perturb_weights(classifier, {"adversarial": x}, labels)
    kernels = {variable.path for variable, _ in moved.steps}
    parts = "query", "key", "value", "attention_output"
    assert kernels == {
        "patches/kernel",
        *(f"attention/{part}/kernel" for part in parts),
        "head/kernel",
    }
    # Several axes and yet no kernel: what the test is about.
    trained = classifier.trainable_variables
    others = {v.path for v in trained if len(v.shape) > 1} - kernels
    names = {path.rsplit("/")[-1] for path in others}
    assert names == {"bias", "class_token", "embeddings"}
    for variable in classifier.variables:
        old, new = before[variable.path], ops.convert_to_numpy(variable)
        if variable.path not in kernels:
            np.testing.assert_array_equal(new, old)
            continue
        # ‖v‖ = γ ‖w‖, in float32.
        size = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert size == pytest.approx(GAMMA, rel=1e-3)
    moved.restore()
    for variable in classifier.variables:
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
    classifier = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), Plain()]
    )
    with pytest.raises(ValueError, match=r"has none\. Received: .*matrix'"):
        fit(wake(classifier, objective="awp"))


def test_is_found_by_name():
    found = kw.objectives.get("awp")
    assert type(found) is kw.objectives.AWP
    assert type(found.objective) is kw.objectives.AdversarialTraining
    with pytest.raises(ValueError, match="must not be an AWP itself"):
        kw.objectives.AWP("awp")


def kernel_after(make_layer, gamma, rate=0.1, epochs=1):
    """The kernel of a layer before and after training with AWP."""
    keras.utils.set_random_seed(0)
    layer = make_layer()
    classifier = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), layer]
    )
    objective = kw.objectives.AWP(gamma=gamma)
    optimizer = keras.optimizers.SGD(rate)
    model = wake(classifier, kw.attacks.FGSM(), optimizer, objective=objective)
    before = ops.convert_to_numpy(layer.kernel).copy()
    fit(model, count=8, batch_size=8, epochs=epochs)
    return before, ops.convert_to_numpy(layer.kernel)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_kernel_that_its_layer_reassigns_is_put_back(rate):
    """After a step it is what the layer makes of w, and the update."""

    def spectral():
        return keras.layers.SpectralNormalization(
            keras.layers.Dense(3), power_iterations=12
        )

    _, unperturbed = kernel_after(spectral, 0.0, rate, epochs=2)
    before, kernel = kernel_after(spectral, 0.3, rate, epochs=2)
    if rate == 0.0:
        # The power iteration has seen w + v, and stops early.
        np.testing.assert_allclose(kernel, unperturbed, atol=1e-2)
        if keras.backend.backend() == "jax":
            # There, what a layer assigns to a kernel ends with the pass.
            np.testing.assert_allclose(kernel, before, atol=1e-6)
        else:
            sigma = np.linalg.svd(kernel)[1][0]
            assert sigma == pytest.approx(1, abs=1e-2)
    else:
        # Gradients at w + v differ from those at w, by less than this.
        assert 1e-5 < np.abs(kernel - unperturbed).max() < 0.03


def test_a_constraint_holds_for_the_kernel_and_not_for_the_perturbed_one():
    def constrained():
        unit = keras.constraints.UnitNorm()
        return keras.layers.Dense(3, kernel_constraint=unit)

    _, kernel = kernel_after(constrained, 0.3)
    # In float32.
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-5)


def test_an_optimizer_that_averages_perturbed_weights_is_refused():
    model = kw.WakeModel(network(), kw.attacks.FGSM(epsilon=0.1), "awp")
    with pytest.raises(ValueError, match="EMATeacher"):
        model.compile(keras.optimizers.SGD(0.1, use_ema=True))
    model.compile(keras.optimizers.SGD(0.1))
