"""The compiled training step against the same step written out by hand."""

import keras
import numpy as np
import pytest

import keras_wake as kw

pytest.importorskip("torch", reason="the reference is in PyTorch")

import reference_step as reference

LINF = ("linf", 0.06, 0.02, 3)
L2 = ("l2", 0.5, 0.2, 3)
# t = 1: only the objective; t = 2: both; t = 3 and 4: the teacher is frozen.
RAMP = (1, 3, 0.8, 0.9)
EPOCHS = 4

# Twelve steps in float32 against float64: an error of 6e-8 a number, summed
# over a few hundred products and carried on by momentum. Seen: below 3e-6.
TOLERANCE = 3e-5


class Recorder(keras.callbacks.Callback):
    """Copies student and teacher after every epoch, or every step."""

    def __init__(self, steps=False):
        super().__init__()
        self.steps = steps
        self.students = []
        self.teachers = []

    def _record(self):
        self.students.append(self.model.classifier.get_weights())
        self.teachers.append(self.model.teacher.get_weights())

    def on_train_batch_end(self, batch, logs=None):
        if self.steps:
            self._record()

    def on_epoch_end(self, epoch, logs=None):
        if not self.steps:
            self._record()


def attack_of(arguments):
    norm, epsilon, step_size, steps = arguments
    return kw.attacks.PGD(norm, epsilon, step_size, steps, random_start=False)


def make(network=None, attack=LINF, schedule=RAMP, **kwargs):
    compiling = {
        name: kwargs.pop(name)
        for name in ("steps_per_execution", "run_eagerly")
        if name in kwargs
    }
    accumulate = kwargs.pop("accumulate", None)
    model = kw.WakeModel(
        network or reference.small_network(),
        attack and attack_of(attack),
        schedule=schedule and kw.schedules.DistillationRamp(*schedule),
        **kwargs,
    )
    model.compile(
        keras.optimizers.SGD(
            0.2, momentum=0.9, gradient_accumulation_steps=accumulate
        ),
        **compiling,
    )
    return model


def assert_weights_equal(weights, expected, tolerance=TOLERANCE):
    for value, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=tolerance)


def soft(labels):
    """Labels with 0.7 on the class and the rest spread unevenly."""
    rest = np.array([0.2, 0.1])
    return np.stack([np.insert(rest, label, 0.7) for label in labels])


LABELS = {
    "int": lambda y: y,
    "column": lambda y: y[:, None],
    "one_hot": lambda y: np.eye(3, dtype="float32")[y],
    "soft": soft,
}

CASES = {
    "plain": {},
    "l2_one_hot_weighted": {
        "labels": "one_hot",
        "attack": L2,
        "weights": "sample",
        "batch_norm": True,
    },
    "copied_norm_soft_warmup": {
        "labels": "soft",
        "batch_norm": True,
        "teacher": {"batch_norm": "copy", "warmup": True, "decay": 0.8},
    },
    "standard_class_weights": {
        "labels": "column",
        "attack": None,
        "weights": "class",
        "batch_norm": True,
        "model": {"objective": "standard", "scale_distillation": False},
    },
    "one_hot_class_weights_temperature": {
        "labels": "one_hot",
        "weights": "class",
        "model": {"temperature": 4.0},
    },
    "no_teacher": {"schedule": None, "teacher": None, "weights": "both"},
    "teacher_without_schedule": {
        "schedule": None,
        "teacher": {"decay": 0.6},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_step_by_hand(name):
    case = CASES[name]
    attack = case.get("attack", LINF)
    schedule = case.get("schedule", RAMP)
    teacher = case.get("teacher", {"decay": 0.7})
    options = case.get("model", {})
    x, y = reference.small_data(10)
    labels = LABELS[case.get("labels", "int")](y)
    sample_weight = np.linspace(0.2, 2.0, 10)
    class_weight = {0: 0.5, 1: 1.5, 2: 1.0}
    by_class = np.array([class_weight[label] for label in y])
    weighting, weights = {
        None: ({}, np.ones(10)),
        "sample": ({"sample_weight": sample_weight}, sample_weight),
        "class": ({"class_weight": class_weight}, by_class),
        "both": ({"sample_weight": sample_weight}, sample_weight),
    }[case.get("weights")]

    network = reference.small_network(case.get("batch_norm", False))
    first_weights = network.get_weights()
    model = make(network, attack, schedule, **options)
    recorder = Recorder()
    callbacks = [recorder]
    if teacher:
        callbacks.insert(0, kw.callbacks.EMATeacher(**teacher))
    # Ten images: the last batch has two.
    history = model.fit(
        x,
        labels,
        batch_size=4,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **weighting,
    ).history

    expected = reference.train(
        first_weights,
        x,
        LABELS["soft" if case.get("labels") == "soft" else "one_hot"](y),
        weights,
        EPOCHS,
        4,
        attack,
        0.2,
        0.9,
        schedule=schedule,
        decay=teacher and teacher["decay"],
        warmup=bool(teacher and teacher.get("warmup")),
        copy_statistics=bool(teacher and teacher.get("batch_norm") == "copy"),
        temperature=options.get("temperature", 2.0),
        scale=options.get("scale_distillation", True),
    )
    accuracy = "robust_accuracy" if attack else "accuracy"
    assert set(history) == {"loss", accuracy, "kd_weight"}
    for epoch, report in enumerate(expected):
        assert history["loss"][epoch] == pytest.approx(
            report["loss"], abs=TOLERANCE
        )
        # A count divided by ten, in float32.
        assert history[accuracy][epoch] == pytest.approx(
            report["accuracy"], abs=1e-6
        )
        assert history["kd_weight"][epoch] == pytest.approx(
            report["kd_weight"], abs=1e-6
        )
        assert_weights_equal(recorder.students[epoch], report["student"])
        if teacher:
            assert_weights_equal(recorder.teachers[epoch], report["teacher"])
    if not teacher:
        assert_weights_equal(model.teacher.get_weights(), first_weights, 0)
    # The comparison would be empty if nothing moved.
    moved = np.abs(recorder.students[-1][0] - first_weights[0]).max()
    assert moved > 100 * TOLERANCE


def linear(seed=0, **kwargs):
    """The smallest network, where only the training loop matters."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(reference.SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(reference.CLASSES, **kwargs),
        ]
    )


def fit(model, callbacks=(), count=10, batch_size=2, epochs=2, **kwargs):
    x, y = reference.small_data(count)
    return model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )


@pytest.mark.filterwarnings("ignore:.*before distillation begins")
def test_counts_a_layers_own_losses_once():
    network = linear(activity_regularizer=keras.regularizers.L2(0.3))
    attack = attack_of(LINF)
    x, y = reference.small_data(10)
    plain = keras.models.clone_model(network)
    plain.set_weights(network.get_weights())
    plain.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    expected = plain.evaluate(
        attack(network, x, y), y, batch_size=10, verbose=0
    )
    model = make(network, eval_attack=attack)
    evaluated = model.evaluate(x, y, batch_size=10, verbose=0, return_dict=True)
    logs = fit(
        model, [kw.callbacks.EMATeacher()], batch_size=10, epochs=1
    ).history
    # One step, of which Keras and keras-wake sum the same ten numbers.
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert evaluated["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras refuses it on PyTorch"
)
def test_several_steps_per_execution_change_nothing():
    results = []
    for steps in (1, 3):
        model = kw.WakeModel(
            linear(),
            kw.attacks.PGD(epsilon=0.1, steps=2),
            schedule=kw.schedules.DistillationRamp(1, 3),
        )
        model.compile(
            keras.optimizers.SGD(0.2, momentum=0.9), steps_per_execution=steps
        )
        # Five steps an epoch: the second call of three has only two left.
        log = fit(model, [kw.callbacks.EMATeacher(decay=0.7)], epochs=3)
        assert int(model.train_steps) == 15
        assert int(model.teacher_updates) == 10
        results.append((log.history, model))
    (log, one), (other_log, several) = results
    # The same operations in another graph; fused differently, if at all.
    assert_weights_equal(one.get_weights(), several.get_weights(), 1e-6)
    for key, values in log.items():
        np.testing.assert_allclose(values, other_log[key], atol=1e-6)


def test_gradient_accumulation_moves_the_teacher_with_the_weights():
    recorder = Recorder(steps=True)
    accumulated = make(linear(), accumulate=2, schedule=None)
    first = accumulated.classifier.get_weights()
    fit(
        accumulated,
        [kw.callbacks.EMATeacher(decay=0.7), recorder],
        batch_size=5,
    )
    assert int(accumulated.teacher_updates) == 2
    assert int(accumulated.train_steps) == 4
    for step, before in ((0, first), (2, recorder.students[1])):
        # Between two updates nothing moves at all.
        assert_weights_equal(recorder.students[step], before, 0)
    assert_weights_equal(recorder.teachers[0], first, 0)
    assert_weights_equal(recorder.teachers[2], recorder.teachers[1], 0)
    # Two halves of a batch are one batch: the same as without accumulation.
    whole = make(linear(), schedule=None)
    fit(whole, [kw.callbacks.EMATeacher(decay=0.7)], batch_size=10)
    assert_weights_equal(
        accumulated.classifier.get_weights(), whole.classifier.get_weights()
    )
    assert_weights_equal(
        accumulated.teacher.get_weights(), whole.teacher.get_weights()
    )
    assert np.abs(whole.teacher.get_weights()[0] - first[0]).max() > 1e-3


@pytest.mark.parametrize("warmup", [False, True])
def test_average_equals_its_closed_form(warmup):
    model = make(linear(), schedule=None)
    students = [model.classifier.get_weights()]
    recorder = Recorder(steps=True)
    teacher = kw.callbacks.EMATeacher(decay=0.6, warmup=warmup)
    # Two fits: n goes on in the second.
    fit(model, [teacher, recorder])
    fit(model, [teacher, recorder], epochs=1)
    students += recorder.students
    updates = len(students) - 1
    assert updates == 15 == int(model.teacher_updates)
    decays = [
        min(0.6, (1 + n) / (10 + n)) if warmup else 0.6 for n in range(updates)
    ]
    # The n-th student enters with 1 − α_n, times every later α.
    shares = [np.prod(decays)] + [
        (1 - decays[n]) * np.prod(decays[n + 1 :]) for n in range(updates)
    ]
    assert sum(shares) == pytest.approx(1)
    expected = [
        sum(
            share * weight.astype("float64")
            for share, weight in zip(shares, weights, strict=True)
        )
        for weights in zip(*students, strict=True)
    ]
    # Fifteen roundings of numbers below 2 in float32.
    assert_weights_equal(model.teacher.get_weights(), expected, 2e-6)


def test_a_student_without_numbers_does_not_reach_a_frozen_teacher():
    model = make(linear(), schedule=(1, 3))
    fit(model, [kw.callbacks.EMATeacher(decay=0.7)], epochs=3)
    frozen = model.teacher.get_weights()
    model.classifier.set_weights([np.full_like(w, np.nan) for w in frozen])
    # `fit` would go back to the last good weights.
    model.train_on_batch(*reference.small_data(10))
    assert np.isnan(model.classifier.get_weights()[0]).all()
    assert_weights_equal(model.teacher.get_weights(), frozen, 0)
    assert np.isfinite(frozen[0]).all()


def test_random_starts_follow_the_seed_and_the_step():
    results = []
    for seed in (3, 3, 4):
        model = kw.WakeModel(
            linear(), kw.attacks.PGD(epsilon=0.3, steps=1), seed=seed
        )
        model.compile(keras.optimizers.SGD(0.5))
        fit(model, epochs=1)
        results.append(model.classifier.get_weights()[0])
    first, same, other = results
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-4
    # The same images and weights; only the start differs from step to step.
    model.optimizer.learning_rate = 0.0
    x, y = reference.small_data(10)
    losses = []
    for _ in range(3):
        model.reset_metrics()
        losses.append(model.train_on_batch(x, y, return_dict=True)["loss"])
    assert len(set(losses)) == 3
