"""An attack, an objective, a schedule and a data set from outside.

Each is defined here, in one file, as a user would; nothing of the package has
to know of them.
"""

import keras
import numpy as np
import pytest
import small
from keras import ops

import keras_wake as kw

EPSILON = 0.1


@keras.saving.register_keras_serializable(package="outside")
class Darken(kw.attacks.Attack):
    """Takes epsilon times `strength` off every pixel."""

    def __init__(self, strength=1.0, **kwargs):
        super().__init__(**kwargs)
        self.strength = strength

    def run(self, classifier, x, labels, seed):
        return ops.full_like(x, -self.strength * self.epsilon)

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}


class Shifted(kw.objectives.WeightPerturbation):
    """A variable that was shifted."""

    def __init__(self, variable, shift):
        self.variable = variable
        self.shift = ops.full(variable.shape, shift)
        variable.assign_add(self.shift)

    def restore(self):
        self.variable.assign_sub(self.shift)


@keras.saving.register_keras_serializable(package="outside")
class SquaredError(kw.objectives.Objective):
    """Squared distance of adversarial logits from `scale` times the label.

    The gradient is taken with biases that are larger by `shift`.
    """

    name = "squared_error"

    def __init__(self, scale=1.0, shift=0.0):
        self.scale, self.shift = scale, shift

    def loss(self, labels, logits):
        distance = logits["adversarial"] - self.scale * labels
        return ops.sum(ops.square(distance), axis=-1)

    def perturb_weights(self, network, images, labels, sample_weight=None):
        return Shifted(network.trainable_variables[-1], self.shift)

    def get_config(self):
        return {"scale": self.scale, "shift": self.shift}


@keras.saving.register_keras_serializable(package="outside")
class Steps(kw.schedules.Schedule):
    """Weight 0.25 from an epoch on, with a teacher that is frozen there."""

    largest_weight = 0.25

    def __init__(self, first):
        self.first = first

    def __call__(self, t):
        return 0.25 if t >= self.first else 0.0

    def averages(self, t):
        return t < self.first

    def get_config(self):
        return {"first": self.first}


def open_stripes(data_dir, image_size):
    """Noise, with one of three rows brighter."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 160, (60, 3, 3, 1)).astype("uint8")
    images[np.arange(60), labels] += 60
    data = kw.datasets.ImageArrays(images, labels)
    return kw.datasets.Source.from_arrays(data, data, ("top", "middle", "low"))


kw.datasets.register("stripes", open_stripes)


@pytest.fixture(scope="module")
def splits():
    return kw.datasets.load("stripes", batch_size=12, validation_split=12)


def wake(rate=0.1, shift=0.0):
    return small.wake(
        small.network(shape=(3, 3, 1)),
        Darken(epsilon=EPSILON),
        keras.optimizers.SGD(rate),
        objective=SquaredError(2.0, shift),
        schedule=Steps(3),
    )


def logits_of(network, x):
    """By hand: the logits of x after the attack."""
    kernel, bias = network.get_weights()
    darker = np.maximum(x - np.float32(EPSILON), 0)
    return darker.reshape(len(x), -1) @ kernel + bias


def test_parts_from_outside_train_evaluate_and_are_saved(splits, tmp_path):
    model = wake()
    backup = kw.BackupAndRestore(tmp_path / "backup")
    history = model.fit(
        splits.train,
        validation_data=splits.validation,
        epochs=4,
        verbose=0,
        callbacks=[kw.EMATeacher(decay=0.5), backup],
    ).history
    assert history["kd_weight"] == [0.0, 0.0, 0.25, 0.25]
    # Averaged in two epochs of four steps.
    assert int(ops.convert_to_numpy(model.teacher_updates)) == 8
    assert history["loss"][1] < history["loss"][0]

    x, y = splits.arrays("test")
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    for prefix, network in ("", model.classifier), ("teacher_", model.teacher):
        correct = logits_of(network, x).argmax(1) == y
        assert 0.3 < np.mean(correct) < 1
        found = logs[f"{prefix}robust_accuracy"]
        assert found == pytest.approx(np.mean(correct))
    distance = logits_of(model.classifier, x) - 2 * np.eye(3)[y]
    loss = np.square(distance).sum(1).mean()
    assert logs["loss"] == pytest.approx(loss, rel=1e-4)  # In float32.

    model.save(tmp_path / "wake.keras")
    loaded = keras.models.load_model(tmp_path / "wake.keras")
    for part in ("attack", "eval_attack", "objective", "schedule"):
        own, other = getattr(model, part), getattr(loaded, part)
        assert type(other) is type(own)
        assert other.get_config() == own.get_config()
    again = loaded.evaluate(x, y, verbose=0, return_dict=True)
    assert again == pytest.approx(logs, rel=1e-5)


def test_an_attack_from_outside_evaluates_any_classifier(splits):
    x, y = splits.arrays("test")
    network = wake().classifier
    report = kw.evaluation.robust_accuracy(
        network, (x, y), Darken(epsilon=EPSILON), checks=False, verbose=0
    )
    clean = network.predict(x, verbose=0).argmax(1) == y
    correct = clean & (logits_of(network, x).argmax(1) == y)
    assert report.robust_accuracy == np.mean(correct)
    assert "Darken" in str(report)


def test_an_objective_from_outside_moves_the_weights(splits):
    model = wake(rate=0.0, shift=0.5)
    x, y = splits.arrays("test")
    callbacks = [kw.EMATeacher()]
    log = model.fit(x, y, batch_size=60, verbose=0, callbacks=callbacks).history
    shifted = logits_of(model.classifier, x) + 0.5
    expected = np.square(shifted - 2 * np.eye(3)[y]).sum(1).mean()
    assert log["loss"] == pytest.approx([expected], rel=1e-4)  # In float32.
    # Taken back after the update, which was 0.
    np.testing.assert_allclose(model.classifier.get_weights()[1], 0, atol=1e-6)


def test_a_schedule_must_define_its_weights():
    class Empty(kw.schedules.Schedule):
        pass

    with pytest.raises(TypeError, match=r"`Empty` does not define `__call__"):
        Empty()(1)
