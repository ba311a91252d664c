"""A step of every objective and teacher against the same step in PyTorch."""

import keras
import numpy as np
import pytest
import small

import keras_wake as kw

pytest.importorskip("torch", reason="the reference is in PyTorch")

import reference_step as reference
import torch
from reference_step import kl

pytestmark = pytest.mark.usefixtures("eagerly")

ATTACK = ("linf", 0.06, 0.02, 3)
RATE = 0.5
# One step in float32 against float64. Seen: below 4e-7.
TOLERANCE = 5e-6


def at(y, logits, smoothing=0.0):
    y = (1 - smoothing) * y + smoothing / y.shape[1]
    return reference.cross_entropy(y, logits["adversarial"])


def trades(y, logits, beta=6.0, smoothing=0.0):
    y = (1 - smoothing) * y + smoothing / y.shape[1]
    natural = reference.cross_entropy(y, logits["clean"])
    return natural + beta * kl(logits["clean"], logits["adversarial"])


def mart(y, logits, beta=5.0):
    """As in the authors' code, but for constants below 1e-7."""
    true = y.argmax(1)
    p = logits["adversarial"].softmax(1)
    top = p.argsort(1)[:, -2:]
    rival = torch.where(top[:, -1] == true, top[:, -2], top[:, -1])
    rows = torch.arange(len(y))
    boosted = -logits["adversarial"].log_softmax(1)[rows, true]
    boosted = boosted - (1.0001 - p[rows, rival]).log()
    missed = 1 - logits["clean"].softmax(1)[rows, true]
    return boosted + beta * kl(logits["clean"], logits["adversarial"]) * missed


CASES = {
    "at_smoothed": (
        kw.objectives.AdversarialTraining(label_smoothing=0.3),
        lambda y, logits: at(y, logits, 0.3),
    ),
    "trades": (kw.objectives.TRADES(), trades),
    "trades_smoothed": (
        kw.objectives.TRADES(beta=2.0, label_smoothing=0.2),
        lambda y, logits: trades(y, logits, 2.0, 0.2),
    ),
    "mart": (kw.objectives.MART(), mart),
    "at_awp": (kw.objectives.AWP(gamma=0.1), at),
    "trades_awp": (kw.objectives.AWP("trades", gamma=0.05), trades),
    "mart_awp": (kw.objectives.AWP("mart", gamma=0.2), mart),
}


def forward(weights, images):
    """Logits of each kind of images, batch norm seeing one after the other."""
    weights, logits = list(weights), {}
    for name in ("clean", "adversarial"):
        if name in images:
            logits[name], statistics = reference.forward(
                weights, images[name], training=True
            )
            if statistics:
                weights[4:6] = statistics
    return logits, weights


def step_by_hand(
    weights, x, y, sample_weight, objective, inputs, gamma=None, teachers=()
):
    """Weights after one step of SGD; `teachers` are (weights, share)."""
    weights = reference.tensors(weights)
    x, y, sample_weight = reference.tensors((x, y, sample_weight))
    trained = [
        n for n in range(len(weights)) if len(weights) == 6 or n not in (4, 5)
    ]
    adversarial = reference.pgd(weights, x, y, *ATTACK).detach()
    images = {"clean": x, "adversarial": adversarial}
    images = {name: images[name] for name in inputs}

    def gradients_at(values, total):
        values = [v.detach().clone() for v in values]
        for n in trained:
            values[n].requires_grad_(True)
        logits, after = forward(values, images)
        loss = total(logits)
        found = torch.autograd.grad(loss, [values[n] for n in trained])
        return dict(zip(trained, found, strict=True)), after

    def blended(logits):
        losses = objective(y, logits)
        share = sum(share for _, share in teachers)
        losses = (1 - share) * losses
        for network, share in teachers:
            target, _ = reference.forward(
                reference.tensors(network), images[inputs[-1]]
            )
            losses = losses + share * reference.distillation(
                logits[inputs[-1]], target, 2.0, True
            )
        return (losses * sample_weight).mean()

    moved = list(weights)
    if gamma is not None:
        ascent, _ = gradients_at(
            weights, lambda logits: (objective(y, logits) * sample_weight).sum()
        )
        for n in trained:
            if weights[n].ndim > 1:
                size = weights[n].norm() / ascent[n].norm()
                moved[n] = weights[n] + gamma * size * ascent[n]
    gradients, after = gradients_at(moved, blended)
    result = [w.detach() for w in after]
    for n in trained:
        gradient = gradients[n]
        if n == 0:  # The regulariser is part of the update.
            gradient = gradient + 2 * reference.L2 * moved[0]
        result[n] = weights[n] - RATE * gradient
    return result


def fit(model, *callbacks, **arguments):
    return model.fit(
        *reference.small_data(8),
        batch_size=8,
        verbose=0,
        callbacks=list(callbacks),
        **arguments,
    ).history


def one_step(objective, batch_norm, callbacks=(), network=None):
    network = network or reference.small_network(batch_norm)
    # No two classes are tied where all features are 0.
    network.layers[-1].bias.assign([0.1, -0.2, 0.3])
    first = network.get_weights()
    attack = kw.attacks.PGD(*ATTACK, random_start=False, loss="cross_entropy")
    model = small.wake(
        network, attack, keras.optimizers.SGD(RATE), objective=objective
    )
    x, y = reference.small_data(8)
    weights = np.linspace(0.2, 2.0, 8)
    log = fit(model, *callbacks, sample_weight=weights)
    return model, log, first, (x, np.eye(3)[y], weights)


def assert_close(weights, expected):
    for value, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_objective_equals_the_step_by_hand(name, batch_norm):
    objective, by_hand = CASES[name]
    model, log, first, data = one_step(objective, batch_norm)
    expected = step_by_hand(
        first,
        *data,
        by_hand,
        objective.inputs,
        gamma=getattr(objective, "gamma", None),
    )
    assert np.isfinite(log["loss"][0])
    found = model.classifier.get_weights()
    assert_close(found, expected)
    assert np.abs(found[0] - first[0]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_pretrained_teachers_equal_the_step_by_hand(objective):
    teachers = [
        (reference.small_network(seed=seed), share)
        for seed, share in ((5, 0.6), (6, 0.1))
    ]
    callbacks = [kw.PretrainedTeacher(*teacher) for teacher in teachers]
    before = [network.get_weights() for network, _ in teachers]
    model, log, first, data = one_step(objective, False, callbacks)
    assert log["kd_weight"][0] == pytest.approx(0.7)
    expected = step_by_hand(
        first,
        *data,
        {"at": at, "trades": trades}[objective],
        model.objective.inputs,
        teachers=[(network.get_weights(), s) for network, s in teachers],
    )
    assert_close(model.classifier.get_weights(), expected)
    # The teachers are as they were, and the student's average idle.
    for (network, _), weights in zip(teachers, before, strict=True):
        small.assert_same(network.get_weights(), weights)
    assert model.robust_classifier is model.classifier


def test_weight_of_an_earlier_fit_counts_for_nothing():
    """Without a callback that averages, λ_t is what it would be at first."""
    model = small.wake(reference.small_network())
    model.kd_weight.assign(0.5)
    teacher = kw.PretrainedTeacher(reference.small_network(seed=5), 0.4)
    assert fit(model, teacher)["kd_weight"][0] == pytest.approx(0.4)


def test_wake_teacher_and_pretrained_one_share_the_loss():
    """With weights 0.4 and 0.6 nothing is left for the objective."""
    teacher = reference.small_network(seed=5)
    network = reference.small_network()
    ramp = kw.schedules.DistillationRamp(0, 1, peak=0.4, final=0.4)
    model = small.wake(
        network, optimizer=keras.optimizers.SGD(0.0), schedule=ramp
    )
    pretrained = kw.PretrainedTeacher(teacher, 0.6)
    log = fit(model, kw.EMATeacher(decay=0.5), pretrained)
    assert log["kd_weight"][0] == pytest.approx(1.0)
    # The average is the student: only the other divergence is left.
    x, y = reference.small_data(8)
    adversarial = model.attack(network, x, y)
    student, target = (
        torch.tensor(keras.ops.convert_to_numpy(n(adversarial))).double()
        for n in (network, teacher)
    )
    expected = 0.6 * reference.distillation(student, target, 2.0, True).mean()
    expected += reference.L2 * (network.get_weights()[0] ** 2).sum()
    assert log["loss"][0] == pytest.approx(float(expected), rel=1e-4)


def test_attack_takes_the_loss_of_the_objective():
    network = reference.small_network()
    attack = kw.attacks.PGD(epsilon=0.05, steps=2)
    for objective, loss in (
        ("at", "cross_entropy"),
        ("trades", "kl"),
        ("mart", "cross_entropy"),
        (kw.objectives.AWP("trades"), "kl"),
    ):
        model = kw.WakeModel(network, attack, objective)
        assert model.attack.loss == loss
        assert model.eval_attack.loss == "cross_entropy"
    given = kw.attacks.PGD(epsilon=0.05, steps=2, loss="cross_entropy")
    assert kw.WakeModel(network, given, "trades").attack is given
    fixed = kw.attacks.PGD(epsilon=0.05, random_start=False)
    with pytest.raises(ValueError, match="needs a random start"):
        kw.WakeModel(network, fixed, "trades")


def test_a_model_with_an_objective_in_another_is_saved_and_loaded(tmp_path):
    objective = kw.objectives.AWP(kw.objectives.TRADES(3.0, 0.1), gamma=0.02)
    model, _, _, (x, *_) = one_step(objective, False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.objective.get_config() == objective.get_config()
    assert loaded.attack.get_config() == model.attack.get_config()
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), loaded.predict(x, verbose=0)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kw.objectives.TRADES(beta=-1), "`beta` must be at least 0"),
        (lambda: kw.objectives.MART(beta="6"), "`beta` must be a real"),
        (
            lambda: kw.objectives.AdversarialTraining(label_smoothing=1.0),
            "`label_smoothing` must be at least 0 and below 1",
        ),
        (
            lambda: kw.PretrainedTeacher(reference.small_network(), 1.5),
            "`weight` must be between 0 and 1",
        ),
        (lambda: kw.PretrainedTeacher("robust.keras", 0.5), "`keras.Model`"),
    ],
)
def test_refuses_what_cannot_be_meant(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_refuses_pretrained_teachers_that_do_not_fit():
    student, other = reference.small_network(), reference.small_network()
    binary = keras.Sequential([*other.layers[:-1], keras.layers.Dense(2)])
    binary.build((None, *reference.SHAPE))
    too_much = r"must not exceed 1 together. Received: \[0.6, 0.5\]"
    for networks, weights, message in (
        ((other, other), (0.6, 0.5), too_much),
        ((binary,), (0.6,), "a teacher of 2 classes for a student of 3"),
        ((student,), (0.5,), "a network of its own"),
    ):
        teachers = map(kw.PretrainedTeacher, networks, weights)
        with pytest.raises(ValueError, match=message):
            one_step("at", False, teachers, student)
