"""The compiled training step against the same step written out by hand."""

import keras
import numpy as np
import pytest
import small

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
    """Copies student and teacher after every step, or every epoch.

    On JAX, to look at them after a step ends what goes from step to step.
    """

    def __init__(self, every="step"):
        super().__init__()
        self.every = every
        self.students, self.teachers = [], []

    def on_train_batch_end(self, batch, logs=None):
        if self.every == "step":
            self.record()

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self.record()

    def record(self):
        self.students.append(self.model.classifier.get_weights())
        self.teachers.append(self.model.teacher.get_weights())


def attack_of(arguments):
    norm, epsilon, step_size, steps = arguments
    return kw.attacks.PGD(norm, epsilon, step_size, steps, random_start=False)


def make(network, attack=LINF, schedule=RAMP, accumulate=None, **arguments):
    schedule = schedule and kw.schedules.DistillationRamp(*schedule)
    optimizer = keras.optimizers.SGD(
        0.2, momentum=0.9, gradient_accumulation_steps=accumulate
    )
    arguments = {"eval_attack": None, "schedule": schedule, **arguments}
    attack = attack and attack_of(attack)
    return small.wake(network, attack, optimizer, **arguments)


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
    "no_teacher": {"schedule": None, "teacher": None, "weights": "sample"},
    "teacher_without_schedule": {"schedule": None, "teacher": {"decay": 0.6}},
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
    by_class = np.array([0.5, 1.5, 1.0])
    weighting, weights = {
        None: ({}, np.ones(10)),
        "sample": ({"sample_weight": sample_weight}, sample_weight),
        "class": ({"class_weight": dict(enumerate(by_class))}, by_class[y]),
    }[case.get("weights")]

    network = reference.small_network(case.get("batch_norm", False))
    first_weights = network.get_weights()
    model = make(network, attack, schedule, **options)
    recorder = Recorder("epoch")
    averaging = [kw.EMATeacher(**teacher)] if teacher else []
    # Ten images: the last batch has two.
    history = model.fit(
        x,
        labels,
        batch_size=4,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[*averaging, recorder],
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
        for key, name, tolerance in (
            ("loss", "loss", TOLERANCE),
            # A count divided by ten, in float32.
            (accuracy, "accuracy", 1e-6),
            ("kd_weight", "kd_weight", 1e-6),
        ):
            expected_log = pytest.approx(report[name], abs=tolerance)
            assert history[key][epoch] == expected_log
        assert_weights_equal(recorder.students[epoch], report["student"])
        if teacher:
            assert_weights_equal(recorder.teachers[epoch], report["teacher"])
    if not teacher:
        assert_weights_equal(model.teacher.get_weights(), first_weights, 0)
    # The comparison would be empty if nothing moved.
    moved = np.abs(recorder.students[-1][0] - first_weights[0]).max()
    assert moved > 100 * TOLERANCE


def linear():
    """The smallest network, where only the training loop matters."""
    return small.network(shape=reference.SHAPE)


def fit(model, *callbacks, batch_size=2, epochs=2):
    return model.fit(
        *reference.small_data(10),
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history


@pytest.mark.filterwarnings("ignore:.*before distillation begins")
def test_counts_a_layers_own_losses_once():
    network = linear()
    network.layers[-1].activity_regularizer = keras.regularizers.L2(0.3)
    attack = attack_of(LINF)
    x, y = reference.small_data(10)
    plain = keras.models.clone_model(network)
    plain.set_weights(network.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(loss=loss)
    expected = plain.evaluate(attack(network, x, y), y, verbose=0)
    model = make(network, eval_attack=attack)
    evaluated = model.evaluate(x, y, batch_size=10, verbose=0, return_dict=True)
    logs = fit(model, kw.EMATeacher(), batch_size=10, epochs=1)
    # One step, of which Keras and keras-wake sum the same ten numbers.
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert evaluated["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras refuses it on PyTorch"
)
def test_several_steps_per_execution_change_nothing():
    results = []
    for steps in (1, 3):
        attack = kw.attacks.PGD(epsilon=0.1, steps=2)
        ramp = kw.schedules.DistillationRamp(1, 3)
        model = kw.WakeModel(linear(), attack, schedule=ramp)
        optimizer = keras.optimizers.SGD(0.2, momentum=0.9)
        model.compile(optimizer, steps_per_execution=steps)
        # Five steps an epoch: the second call of three has only two left.
        log = fit(model, kw.EMATeacher(decay=0.7), epochs=3)
        assert int(model.train_steps) == 15
        assert int(model.teacher_updates) == 10
        results.append((log, model))
    (log, one), (other_log, several) = results
    # The same operations in another graph; fused differently, if at all.
    assert_weights_equal(one.get_weights(), several.get_weights(), 1e-6)
    for key, values in log.items():
        np.testing.assert_allclose(values, other_log[key], atol=1e-6)


def test_gradient_accumulation_moves_the_teacher_with_the_weights():
    recorder = Recorder()
    accumulated = make(linear(), accumulate=2, schedule=None)
    first = accumulated.classifier.get_weights()
    fit(accumulated, kw.EMATeacher(decay=0.7), recorder, batch_size=5)
    assert int(accumulated.teacher_updates) == 2
    assert int(accumulated.train_steps) == 4
    for step, before in ((0, first), (2, recorder.students[1])):
        # Between two updates nothing moves at all.
        assert_weights_equal(recorder.students[step], before, 0)
    assert_weights_equal(recorder.teachers[0], first, 0)
    assert_weights_equal(recorder.teachers[2], recorder.teachers[1], 0)
    # Two halves of a batch are one batch: the same as without accumulation.
    whole = make(linear(), schedule=None)
    fit(whole, kw.EMATeacher(decay=0.7), batch_size=10)
    for name in ("classifier", "teacher"):
        one, other = (getattr(each, name) for each in (accumulated, whole))
        assert_weights_equal(one.get_weights(), other.get_weights())
    assert np.abs(whole.teacher.get_weights()[0] - first[0]).max() > 1e-3


@pytest.mark.parametrize("warmup", [False, True])
def test_average_equals_its_closed_form(warmup):
    model = make(linear(), schedule=None)
    students = [model.classifier.get_weights()]
    recorder = Recorder()
    teacher = kw.callbacks.EMATeacher(decay=0.6, warmup=warmup)
    # Two fits: n goes on in the second.
    fit(model, teacher, recorder)
    fit(model, teacher, recorder, epochs=1)
    students += recorder.students
    updates = len(students) - 1
    assert updates == 15 == int(model.teacher_updates)
    n = np.arange(updates)
    decays = np.minimum(0.6, (1 + n) / (10 + n)) if warmup else 0.6 + 0 * n
    # The n-th student enters with 1 − α_n, times every later α.
    later = [np.prod(decays[n:]) for n in range(updates + 1)]
    shares = np.array([later[0], *((1 - decays) * later[1:])])
    assert sum(shares) == pytest.approx(1)
    expected = [
        np.tensordot(shares, np.stack(weights).astype("float64"), 1)
        for weights in zip(*students, strict=True)
    ]
    # Fifteen roundings of numbers below 2 in float32.
    assert_weights_equal(model.teacher.get_weights(), expected, 2e-6)


def test_a_student_without_numbers_does_not_reach_a_frozen_teacher():
    model = make(linear(), schedule=(1, 3))
    fit(model, kw.EMATeacher(decay=0.7), epochs=3)
    frozen = model.teacher.get_weights()
    model.classifier.set_weights([np.full_like(w, np.nan) for w in frozen])
    # `fit` would go back to the last good weights.
    model.train_on_batch(*reference.small_data(10))
    assert np.isnan(model.classifier.get_weights()[0]).all()
    assert_weights_equal(model.teacher.get_weights(), frozen, 0)
    assert np.isfinite(frozen[0]).all()


def test_random_starts_follow_the_seed_and_the_step():
    results = []
    attack = kw.attacks.PGD(epsilon=0.3, steps=1)
    for seed in (3, 3, 4):
        optimizer = keras.optimizers.SGD(0.5)
        model = small.wake(linear(), attack, optimizer, seed=seed)
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
