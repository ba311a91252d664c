"""`WakeModel(attack_dtype="bfloat16")`: the attack alone in bfloat16."""

from typing import ClassVar

import keras
import numpy as np
import pytest
import small
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

import keras_wake as kw
from keras_wake import backend
from keras_wake.training.reduced_precision import copy_in

BOUNDS = (0.0, 1.0)


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class Revealing(kw.attacks.Attack):
    """Moves all pixels of an image by 0.2 · tanh(a quarter of a logit)."""

    # What the logits were computed in, at each call or tracing.
    seen: ClassVar[list[str]] = []

    def run(self, classifier, x, labels, seed):
        logits = classifier(x, training=self.training)
        self.seen.append(keras.backend.standardize_dtype(logits.dtype))
        up = 0.2 * ops.tanh(ops.cast(logits[:, 0], "float32") / 4)
        return ops.broadcast_to(ops.reshape(up, (-1, 1, 1, 1)), ops.shape(x))


def network(batch_norm=True):
    """Its logits are around 1, and differ from image to image."""
    norm = [keras.layers.BatchNormalization] * batch_norm
    classifier = small.network(
        lambda: [keras.layers.Dense(6), *(layer() for layer in norm)]
    )
    rng = np.random.default_rng(0)
    weights = classifier.get_weights()
    classifier.set_weights(
        [rng.uniform(-0.6, 0.9, w.shape) for w in weights[:3]]
        + [rng.uniform(0.5, 1, w.shape) for w in weights[3:]]
    )
    return classifier


def images():
    x, y = small.data()
    return 0.25 + 0.5 * x, y


def wake(attack_dtype="bfloat16", classifier=None, **arguments):
    attack = Revealing(epsilon=0.2)
    return small.wake(
        classifier or network(), attack, attack_dtype=attack_dtype, **arguments
    )


def in_bfloat16(classifier):
    """The same network, made under the policy."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        twin = network(batch_norm=len(classifier.layers) == 4)
    finally:
        keras.config.set_dtype_policy("float32")
    twin.set_weights(classifier.get_weights())
    return twin


def loss_on(classifier, x, y):
    """The mean cross-entropy in inference mode, by NumPy."""
    logits = to_numpy(classifier(x)).astype("float64")
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log[np.arange(len(y)), y].mean()


def moved(x, logits):
    up = 0.2 * np.tanh(to_numpy(ops.cast(logits[:, 0], "float32")) / 4)
    return x + up[:, None, None, None]


def test_each_attack_computes_in_bfloat16_with_the_weights_of_the_student():
    x, y = images()
    # Batch norm would take most of the difference out of the loss.
    classifier = network(batch_norm=False)
    model = wake(classifier=classifier, optimizer=keras.optimizers.SGD(0.1))
    for _ in range(3):
        twin = in_bfloat16(classifier)
        # TensorFlow rounds elsewhere in a graph than outside of one.
        logits = backend.compile(twin, lambda twin=twin: twin)(
            ops.convert_to_tensor(x)
        )
        in_half = loss_on(classifier, moved(x, logits), y)
        in_full = loss_on(classifier, moved(x, classifier(x)), y)
        found = model.train_on_batch(x, y, return_dict=True)["loss"]
        model.reset_metrics()
        # A logit of bfloat16 is up to 2^-9 off; a sum in float32 2^-22.
        np.testing.assert_allclose(found, in_half, rtol=0, atol=2e-6)
        assert abs(in_full - in_half) > 1e-5


def test_only_the_attack_of_training_does():
    Revealing.seen.clear()
    model = wake()
    small.fit(model, images=lambda _: images())
    assert set(Revealing.seen) == {"bfloat16"}
    Revealing.seen.clear()
    model.evaluate(*images(), verbose=0)
    assert set(Revealing.seen) == {"float32"}
    assert model.classifier.layers[-1].compute_dtype == "float32"


def test_the_model_has_the_variables_that_it_has_without():
    model, plain = wake(), wake(None)
    shapes = [variable.shape for variable in plain.variables]
    assert [variable.shape for variable in model.variables] == shapes
    assert len(model.trainable_variables) == len(plain.trainable_variables)


def test_in_a_file(tmp_path):
    model = wake()
    small.fit(model, images=lambda _: images())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.attack_dtype == "bfloat16"
    for each in (model, loaded):
        small.fit(each, images=lambda _: images(), epochs=2)
    small.assert_same(model.get_weights(), loaded.get_weights())
    config = wake(None).get_config()
    assert config.pop("attack_dtype") is None
    assert kw.WakeModel.from_config(config).attack_dtype is None


def test_a_run_that_is_continued(tmp_path):
    def run(folder, epochs):
        model = wake()
        backup = kw.BackupAndRestore(folder, delete_checkpoint=False)
        teacher = kw.EMATeacher(0.5)
        arguments = {"batch_size": 4, "epochs": epochs}
        small.fit(
            model, backup, teacher, images=lambda _: images(), **arguments
        )
        return model

    run(tmp_path / "broken", 2)
    found = run(tmp_path / "broken", 4)
    expected = run(tmp_path / "whole", 4)
    assert int(to_numpy(found.train_steps)) == 12
    small.assert_same(found.get_weights(), expected.get_weights())


def test_what_is_set_on_a_layer_later():
    def trained(scale, later):
        classifier = small.network(lambda: [keras.layers.Rescaling(scale)])
        model = wake(classifier=classifier)
        classifier.layers[1].scale = later
        small.fit(model, images=lambda _: images())
        return model.classifier.get_weights()

    small.assert_same(trained(1.0, later=2.0), trained(2.0, later=2.0))
    assert not np.array_equal(trained(1.0, 1.0)[0], trained(1.0, 2.0)[0])


def test_a_frozen_batch_norm_stays_frozen_in_an_attack_in_training_mode():
    x, y = images()
    attack = Revealing(epsilon=0.2)
    attack.training = True
    model = small.wake(network(), attack, attack_dtype="bfloat16")
    model.classifier.layers[2].trainable = False
    model.compile(keras.optimizers.SGD(0.0))
    found = small.fit(model, images=lambda _: (x, y)).history["loss"][0]
    # Frozen, it computes in training mode what it computes otherwise.
    classifier, twin = model.classifier, in_bfloat16(model.classifier)
    expected = loss_on(classifier, moved(x, twin(x)), y)
    other = loss_on(classifier, moved(x, twin(x, training=True)), y)
    # XLA leaves out some roundings between two layers: 3e-5.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert abs(other - expected) > 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_finds_what_it_finds_on_a_network_in_bfloat16(norm):
    x, y = images()
    classifier = network()
    attack = kw.attacks.PGD(norm, epsilon=0.1, steps=3, random_start=False)
    copy = copy_in("bfloat16", classifier, BOUNDS)
    labels = ops.one_hot(y, small.CLASSES)
    perturb = backend.compile(
        lambda x, labels: attack.perturb(copy, x, labels, None),
        lambda: classifier,
    )
    found = to_numpy(perturb(ops.convert_to_tensor(x), labels))
    expected = to_numpy(attack(in_bfloat16(classifier), x, y, seed=0))
    # The same operations, compiled: at most the sums of float32 differ.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "half", 16])
def test_other_dtypes(dtype):
    with pytest.raises(ValueError, match=r"attack_dtype.*None, 'bfloat16'"):
        wake(dtype)


def test_it_cannot_be_set_later():
    with pytest.raises(AttributeError, match="attack_dtype"):
        wake().attack_dtype = None


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_quantised_network():
    classifier = network()
    classifier.quantize("int8")
    with pytest.raises(ValueError, match=r"quantised.*attack_dtype=None"):
        copy_in("bfloat16", classifier, BOUNDS)


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class Exact(keras.layers.Layer):
    """What is left of 256 times an image without its whole numbers."""

    def call(self, x):
        return 256 * x - ops.floor(256 * x)


def test_a_network_that_computes_something_else_in_bfloat16():
    classifier = small.network(lambda: [Exact()])
    with pytest.raises(ValueError, match=r"In bfloat16.*other logits"):
        copy_in("bfloat16", classifier, BOUNDS)


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="a module of PyTorch"
)
def test_a_module_of_pytorch():
    torch = pytest.importorskip("torch")
    module = keras.layers.TorchModuleWrapper(torch.nn.Linear(16, 3))
    classifier = keras.Sequential(
        [keras.Input(small.SHAPE), keras.layers.Flatten(), module]
    )
    with pytest.raises(ValueError, match="PyTorch module"):
        copy_in("bfloat16", classifier, BOUNDS)


@pytest.mark.parametrize("objective", ["trades", kw.objectives.AWP("trades")])
def test_the_attack_of_trades_is_refused(objective):
    pgd = kw.attacks.PGD(epsilon=0.1, steps=1)
    with pytest.raises(ValueError, match='`loss="kl"`, that of TRADES'):
        kw.WakeModel(network(), pgd, objective, attack_dtype="bfloat16")
    # As for any objective, the attack may ascend another loss.
    pgd = kw.attacks.PGD(epsilon=0.1, steps=1, loss="cross_entropy")
    kw.WakeModel(network(), pgd, objective, attack_dtype="bfloat16")


def test_compile_takes_over_what_is_frozen_since():
    losses = []
    for freeze_first in (True, False):
        classifier = network()
        norm = next(
            layer
            for layer in classifier.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        )
        norm.trainable = not freeze_first
        attack = kw.attacks.PGD(epsilon=0.1, steps=1, training=True)
        model = kw.WakeModel(classifier, attack, attack_dtype="bfloat16")
        norm.trainable = False
        model.compile("sgd")
        losses.append(model.train_on_batch(*images())[0])
    assert losses[0] == losses[1]
