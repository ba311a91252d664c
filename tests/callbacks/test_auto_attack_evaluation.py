"""AutoAttackEvaluation: when it measures, what it logs, what it survives."""

import csv
import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from dense_run import data
from dense_run import fit
from dense_run import PGD
from dense_run import wake

import keras_wake as kw
from keras_wake.callbacks import auto_attack_evaluation
from keras_wake.evaluation import ReliabilityWarning

eagerly = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def replace(monkeypatch):
    """Has the callback call another function, given the real one."""
    evaluate = auto_attack_evaluation.evaluate
    return lambda make: monkeypatch.setattr(
        auto_attack_evaluation, "evaluate", make(evaluate)
    )


@eagerly
def test_measures_every_n_epochs_and_logs(tmp_path):
    model = wake()
    attacks = [kw.attacks.FGSM(epsilon=0.1), PGD]
    callback = kw.AutoAttackEvaluation(
        data(seed=5),
        every=2,
        samples=12,
        attacks=attacks,
        checks=False,
        path=tmp_path / "reports",
        class_names=["a", "b", "c"],
    )
    seen = []
    later = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(dict(logs))
    )
    history = fit(model, kw.EMATeacher(0.5), callback, later)
    # After the first one as well; the logs repeat the newest numbers.
    assert [entry["epoch"] for entry in callback.history] == [1, 2, 4]
    for key in ("autoattack_accuracy", "teacher_autoattack_accuracy"):
        first, second, last = (entry[key] for entry in callback.history)
        assert history[key] == [first, second, second, last]
        assert [logs[key] for logs in seen] == history[key]
    x, y = data(seed=5)
    for network, report in (
        (model.classifier, callback.report),
        (model.teacher, callback.teacher_report),
    ):
        expected = kw.evaluation.autoattack(
            network, (x[:12], y[:12]), attacks=attacks, verbose=0, checks=False
        )
        np.testing.assert_array_equal(report.fallen_to, expected.fallen_to)
        assert report.class_names == ["a", "b", "c"]
    assert callback.history[-1]["report"] == callback.report.to_dict()
    names = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert names == [
        f"{network}autoattack_epoch_000{epoch}{ending}"
        for network in ("", "teacher_")
        for epoch in (1, 2, 4)
        for ending in (".json", ".png")
    ]
    written = tmp_path / "reports" / "autoattack_epoch_0004.json"
    assert json.loads(written.read_text()) == callback.report.to_dict()


@eagerly
def test_threat_model_is_that_of_eval_attack_in_its_units(replace):
    seen = []

    def short(evaluate):
        def evaluated(network, data, attacks, **options):
            threats = [attack.threat_model for attack in attacks.values()]
            (threat,) = {
                (each.norm, each.epsilon, each.bounds) for each in threats
            }
            seen.append((*threat, options["version"]))
            norm, epsilon, bounds = threat
            pgd = kw.attacks.PGD(norm, epsilon, steps=1, bounds=bounds)
            return evaluate(network, data, {"PGD": pgd}, **options)

        return evaluated

    replace(short)
    grey = kw.attacks.PGD(epsilon=8, steps=1, bounds=(0, 255))
    x, y = data()
    for attack, images, epsilon in (
        (PGD, x, None),
        (PGD, x, 0.2),
        (grey, 255 * x, 4),
    ):
        callback = kw.AutoAttackEvaluation(
            (images, y), every=1, epsilon=epsilon, checks=False
        )
        wake(attack).fit(images, y, verbose=0, callbacks=[callback])
        assert callback.teacher_report is None
    assert seen == [
        ("linf", 0.1, (0, 1), "standard"),
        ("linf", 0.2, (0, 1), "standard"),
        ("linf", 4, (0, 255), "standard"),
    ]
    assert callback.report.epsilon == 4
    assert callback.report.bounds == (0, 255)
    with pytest.raises(ValueError, match=r"between 0 and 1\. .*: epsilon=4"):
        fit(wake(), callback, epochs=1)


@eagerly
def test_a_report_that_cannot_be_written_is_a_warning(tmp_path):
    blocked = tmp_path / "folder"

    def block(epoch, logs=None):
        if epoch == 0:
            blocked.rmdir()
            blocked.write_text("not a folder")

    spoiler = keras.callbacks.LambdaCallback(on_epoch_begin=block)
    callback = quick(path=blocked)
    with pytest.warns(UserWarning, match=r"could not be written.*goes on"):
        history = fit(wake(), callback, spoiler, epochs=2)
    assert len(history["autoattack_accuracy"]) == 2


def test_composes_with_callbacks_of_keras(tmp_path):
    callback = kw.AutoAttackEvaluation(
        data(seed=5), every=3, attacks=[PGD], checks=False
    )
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best_{epoch}.keras",
        monitor="autoattack_accuracy",
        mode="max",
        save_best_only=True,
    )
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(wake(), callback, checkpoint, log)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    found = [float(row["autoattack_accuracy"]) for row in rows]
    assert found == pytest.approx(history["autoattack_accuracy"])
    # Where a new number is better, and nowhere else.
    first, _, third, _ = history["autoattack_accuracy"]
    saved = sorted(path.name for path in tmp_path.glob("best_*"))
    assert saved == ["best_1.keras", "best_3.keras"][: 1 + (third > first)]


def quick(**kwargs):
    return kw.AutoAttackEvaluation(
        data(), every=1, attacks=[PGD], checks=False, **kwargs
    )


@eagerly
def test_an_evaluation_that_fails_later_does_not_end_the_run(replace):
    calls = []

    def second_fails(evaluate):
        def evaluated(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return evaluate(*args, **options)

        return evaluated

    replace(second_fails)
    callback = quick()
    with pytest.warns(UserWarning, match=r"epoch 2 has failed.*out of memory"):
        history = fit(wake(), callback, epochs=3)
    assert [entry["epoch"] for entry in callback.history] == [1, 3]
    first, second, _ = history["autoattack_accuracy"]
    assert second == first
    calls[:] = [1]
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(wake(), callback, epochs=3)


def test_findings_are_told_once():
    weak = kw.attacks.PGD(
        epsilon=0.3, steps=2, step_size=0.02, random_start=False
    )
    callback = kw.AutoAttackEvaluation(
        data(count=60), every=1, samples=60, attacks=[weak]
    )
    with pytest.warns(ReliabilityWarning) as caught:
        fit(wake(), callback, epochs=3)
    (told,) = (w for w in caught if w.category is ReliabilityWarning)
    assert told.message.code == "not-converged"
    assert "Of the student: With twice" in str(told.message)
    found = [entry["report"]["findings"] for entry in callback.history]
    assert sum(map(bool, found)) >= 1


@eagerly
def test_a_warning_that_is_an_error_costs_no_number(replace):
    def doubtful(evaluate):
        found = (("softmax", "It is soft."),)
        return lambda *args, **options: dataclasses.replace(
            evaluate(*args, **options), findings=found
        )

    replace(doubtful)
    callback = quick()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReliabilityWarning)
        with pytest.raises(ReliabilityWarning, match="Of the student: It is"):
            fit(wake(), callback, epochs=3)
    assert [entry["epoch"] for entry in callback.history] == [1]
    assert callback.report.findings == (("softmax", "It is soft."),)


@eagerly
def test_state_goes_through_a_backup(tmp_path):
    def callbacks():
        keeper = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
        return [quick(), keeper]

    first, keeper = callbacks()
    fit(wake(), first, keeper, epochs=2)
    second, keeper = callbacks()
    fit(wake(), second, keeper, epochs=3)
    assert [entry["epoch"] for entry in second.history] == [1, 2, 3]
    assert second.history[:2] == first.history
    again = kw.AutoAttackEvaluation(data(), attacks=[PGD])
    again.set_state(first.get_state())
    assert again.report.to_dict() == first.report.to_dict()
    assert again.teacher_report is None


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"every": 0}, ValueError, "`every` must be at least 1"),
        ({"samples": 0}, ValueError, "`samples` must be at least 1"),
        ({"version": "plus"}, ValueError, "`version` must be one of"),
        ({"epsilon": -0.1}, ValueError, "`epsilon` must be at least 0"),
        ({"epsilon": "8/255"}, TypeError, "`epsilon` must be a real"),
        ({"attacks": [3]}, TypeError, "`attacks` must be a list"),
        ({"data": iter([])}, ValueError, "more than once"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        kw.AutoAttackEvaluation(**{"data": data(), **arguments})


@eagerly
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_names": ["a", "b"]}, "one name for each of the 3"),
        ({"attacks": [kw.attacks.PGD("l2", epsilon=128)]}, "128/255, not 128"),
        ({"data": (2 * data()[0], data()[1])}, "outside the bounds"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(arguments, message):
    callback = kw.AutoAttackEvaluation(**{"data": data(), **arguments})
    with pytest.raises(ValueError, match=message):
        fit(wake(), callback, epochs=1)
