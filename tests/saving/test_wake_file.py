"""Saving and loading: everything comes back, and training goes on."""

import os
import pathlib

import keras
import numpy as np
import pytest
import small

import keras_wake as kw


def data(seed=0):
    return small.data(14, seed)


def network():
    return small.network(
        lambda: [
            keras.layers.Dense(6),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            # Random numbers whose state must come back as well.
            keras.layers.Dropout(0.2, seed=1),
        ],
    )


def make():
    """No argument at its default, and random starts."""
    classifier = network()
    model = kw.WakeModel(
        classifier,
        kw.attacks.FGSM("l2", 0.5, step_size=0.6, random_start=True),
        objective=kw.objectives.AdversarialTraining(),
        eval_attack=kw.attacks.PGD("l2", 0.4, 0.1, steps=2),
        schedule=kw.schedules.DistillationRamp(1, 4, 0.8, 0.9),
        temperature=3.0,
        scale_distillation=False,
        head=classifier.layers[-1].name,
        seed=5,
        name="saved",
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="two")],
    )
    return model


def train(model, first, last, *callbacks):
    return small.fit(
        *(model, kw.EMATeacher(0.6, warmup=True), *callbacks),
        count=14,
        batch_size=5,
        initial_epoch=first,
        epochs=last,
        validation_data=data(1),
    ).history


def state(model):
    """Every number that training depends on, by name."""
    found = {v.path: np.asarray(v) for v in model.optimizer.variables}
    for name in ("classifier", "teacher"):
        # Dropout's random state is among the variables, not the weights.
        for n, variable in enumerate(getattr(model, name).variables):
            found[f"{name} {n}"] = np.asarray(variable)
    for name in ("teacher_updates", "train_steps"):
        found[name] = np.asarray(getattr(model, name))
    return found


def assert_state(model, expected):
    small.assert_same(state(model).values(), expected.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four epochs, and what there was after two of them."""
    model = make()
    halfway = {"file": tmp_path_factory.mktemp("run") / "wake.keras"}

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.save(halfway["file"])
                halfway["state"] = state(self.model)
                halfway["logits"] = self.model.predict(data()[0], verbose=0)

    history = train(model, 0, 4, Keep())
    return model, history, halfway


def test_the_file_brings_back_everything(run):
    model, history, halfway = run
    loaded = keras.saving.load_model(halfway["file"])
    assert isinstance(loaded, kw.WakeModel)
    configs = [m.get_config() for m in (loaded, model)]
    for config in configs:
        # It holds how Keras built it, besides what it is.
        config.pop("classifier")
    assert configs[0] == configs[1]
    for name in ("temperature", "scale_distillation", "seed", "name"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.head.name == model.head.name
    assert loaded.attack.get_config() == model.attack.get_config()
    assert loaded.eval_attack.get_config() == model.eval_attack.get_config()
    for t in range(6):
        assert loaded.schedule(t) == model.schedule(t)
    assert loaded.teacher_in_use
    assert loaded.robust_classifier is loaded.teacher
    assert_state(loaded, halfway["state"])
    assert int(loaded.teacher_updates) == int(loaded.train_steps) == 6
    np.testing.assert_array_equal(
        loaded.predict(data()[0], verbose=0), halfway["logits"]
    )
    rest = train(loaded, 2, 4)
    assert set(rest) == set(history)
    for key, values in history.items():
        assert values[2:] == rest[key], key
    assert_state(loaded, state(model))


def test_weights_alone_bring_back_every_number(tmp_path, run):
    model, _, _ = run
    path = tmp_path / "wake.weights.h5"
    fresh = make()
    fresh.optimizer.build(fresh.trainable_variables)
    model.save_weights(path)
    fresh.load_weights(path)
    assert_state(fresh, state(model))


def test_config_alone_makes_the_same_model():
    model = make()
    again = kw.WakeModel.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    standard = kw.WakeModel(network(), None, objective="standard")
    again = kw.WakeModel.from_config(standard.get_config())
    assert again.attack is None and again.schedule is None
    assert again.objective.name == "standard"


LOADS_ALONE = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_wake":
            raise ImportError("keras-wake is not installed here")


sys.meta_path.insert(0, Blocker())

import keras
import numpy as np

try:
    import keras_wake
except ImportError:
    pass
else:
    raise SystemExit("keras_wake was importable")
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/robust.keras")
x, y = np.load(folder + "/x.npy"), np.load(folder + "/y.npy")
np.save(folder + "/logits.npy", model.predict(x, verbose=0))
before = model.get_weights()[0]
model.compile(
    "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
model.fit(x, y, verbose=0)
assert np.abs(model.get_weights()[0] - before).max() > 0
assert len(model.trainable_variables) == 6
"""


def test_the_robust_classifier_needs_no_keras_wake(tmp_path, run):
    model, _, _ = run
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    model.robust_classifier.save(tmp_path / "robust.keras")
    root = pathlib.Path(kw.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    small.output_of("-c", LOADS_ALONE, tmp_path, env=environment)
    expected = keras.ops.convert_to_numpy(model.teacher(x, training=False))
    # The same network in another graph.
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), expected, atol=1e-6
    )
    student = keras.ops.convert_to_numpy(model.classifier(x, training=False))
    assert np.abs(expected - student).max() > 1e-3


def test_a_subclassed_classifier_comes_back(tmp_path):
    classifier = small.Subclassed()
    x, _ = data()
    classifier(x)
    model = kw.WakeModel(classifier, kw.attacks.PGD(steps=1), head="logits")
    model.save(tmp_path / "wake.keras")
    loaded = keras.models.load_model(tmp_path / "wake.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
