"""The methods of the runner: what each is made of, and the flags it takes."""

import hashlib
import json
import shutil
import types
from unittest import mock

import keras
import numpy as np
import pytest

import keras_wake as kw

TEACHERS = ("--robust-teacher=at.keras", "--standard-teacher=standard.keras")


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Two networks for digits in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("at.keras", "standard.keras"):
        kw.models.SmallCNN(10, (8, 8, 1), (2, 2, 2), (1, 2, 1)).save(name)
    return tmp_path


def parse(examples, *argv):
    return examples.flags.parse_args("", examples.digits.DEFAULTS, argv)[1]


def test_every_method_is_made_of_what_its_record_says(examples, networks):
    kinds = {
        "at": kw.objectives.AdversarialTraining,
        "trades": kw.objectives.TRADES,
        "mart": kw.objectives.MART,
        "standard": kw.objectives.Standard,
    }
    for name, method in examples.methods.METHODS.items():
        args = parse(examples, f"--method={name}", *TEACHERS)
        parts = examples.parts.Parts(args)
        objective = parts.objective
        # As published.
        beta = {"trades": 6.0, "mart": 5.0}.get(method.objective)
        gamma = 0.005 if method.objective == "trades" else 0.01
        settings = examples.flags.settings_of(args)
        assert settings["beta"] == beta
        assert settings["gamma"] == (gamma if method.awp else None)
        assert isinstance(objective, kw.objectives.AWP) == method.awp
        if method.awp:
            assert objective.gamma == gamma
            objective = objective.objective
        assert type(objective) is kinds[method.objective]
        assert getattr(objective, "beta", None) == beta
        smoothing = getattr(objective, "label_smoothing", 0.0)
        assert smoothing == method.label_smoothing
        assert args.cutmix == method.cutmix
        assert isinstance(parts.attack, kw.attacks.FGSM) == method.single_step
        assert parts.eval_attack.steps == 20
        ramps = {
            "wake": kw.schedules.DistillationRamp,
            "adaptive": kw.schedules.AdaptiveRamp,
        }
        assert type(parts.schedule) is ramps.get(method.teacher, type(None))
        if method.teacher != "kdswa":
            callbacks = parts.teachers(args, None)
            averaged = method.teacher is not None
            assert [type(c) for c in callbacks] == [kw.EMATeacher] * averaged


def test_flags_overrule_the_method(examples):
    args = parse(
        examples,
        *("--method=trades", "--label-smoothing=0.1", "--beta=3"),
        "--cutmix=0.5",
    )
    objective = examples.parts.Parts(args).objective
    assert objective.get_config() == {"beta": 3.0, "label_smoothing": 0.1}
    assert args.cutmix == 0.5
    # The usual one of TRADES, and not of MART.
    args = parse(examples, "--method=mart", "--beta=6")
    assert examples.parts.Parts(args).objective.beta == 6.0
    args = parse(examples, "--method=fast-at", "--epsilon=0.1")
    expected = kw.attacks.FGSM.fast_at(0.1)
    attack = examples.parts.Parts(args).attack
    assert attack.get_config() == expected.get_config()


def test_kdswa_needs_its_teachers(examples, networks, capsys):
    for message, *arguments in (
        ("--standard-teacher: there is no network at None", TEACHERS[0]),
        (
            "must not exceed 1 together. Received: 0.6 and 0.5",
            *(*TEACHERS, "--standard-weight=0.5"),
        ),
        (
            "--robust-teacher: there is no network at none.keras",
            *("--robust-teacher=none.keras", TEACHERS[1]),
        ),
    ):
        with pytest.raises(SystemExit):
            parse(examples, "--method=kdswa", *arguments)
        assert message in capsys.readouterr().err


def test_settings_say_which_teachers_they_were(examples, networks):
    def hashes():
        args = parse(examples, "--method=kdswa", *TEACHERS)
        settings = examples.flags.settings_of(args)
        return [settings[name] for name in examples.settings.TEACHER_FILES]

    first = hashes()
    digest = hashlib.sha256((networks / "at.keras").read_bytes()).hexdigest()
    assert first[0] == digest[:12]
    (networks / "standard.keras").write_bytes(b"another one")
    assert hashes()[0] == first[0] and hashes()[1] != first[1]
    at = examples.flags.settings_of(parse(examples, "--method=at"))
    assert at["robust_teacher_sha256"] is None


def test_kdswa_refuses_what_is_no_plain_network(examples, networks):
    args = parse(examples, "--method=kdswa", *TEACHERS)
    parts = examples.parts.Parts(args)

    def check(shape, classes):
        splits = types.SimpleNamespace(input_shape=shape, num_classes=classes)
        parts.check_data(splits)

    check((8, 8, 1), 10)
    for shape, classes in (((8, 8, 3), 10), ((8, 8, 1), 5)):
        message = r"^--robust-teacher does not fit the data: .* 10 "
        with pytest.raises(ValueError, match=message):
            check(shape, classes)
    network = keras.models.load_model("at.keras")
    model = kw.WakeModel(network, kw.attacks.PGD())
    model.compile("sgd")
    model.save("at.keras")
    with pytest.raises(ValueError, match=r"whole WakeModel.*Pass the best\.k"):
        examples.parts.Parts(args)
    (networks / "at.keras").write_bytes(b"no zip")
    with pytest.raises(
        ValueError, match=r"^--robust-teacher: at.keras cannot be read"
    ):
        examples.parts.Parts(args)


def test_statistics_of_the_average(examples):
    data = kw.datasets.load("digits", limit=20, validation_split=0)
    for mode in ("average", "copy", "reestimate"):
        args = parse(examples, "--method=wake", f"--batch-norm={mode}")
        (average,) = examples.parts.Parts(args).teachers(args, data)
        assert average.batch_norm == mode
        count = None if average.data is None else len(average.data[0])
        assert count == (20 if mode == "reestimate" else None)


def test_early_stopping_follows_what_the_run_returns(examples):
    average, student = "val_teacher_robust_accuracy", "val_robust_accuracy"
    expected = {
        "wake": average,
        "wake-adaptive": average,
        "cutmix": average,
        "at": student,
        "kdswa": student,
        "standard": "val_accuracy",
    }
    for name, key in expected.items():
        assert examples.methods.METHODS[name].stopped_by == key


@pytest.mark.slow
def test_adaptive_ramp_that_was_found_is_drawn_and_recorded(
    start, tmp_path, monkeypatch, capsys
):
    plot = mock.Mock(wraps=kw.visualization.plot_history)
    monkeypatch.setattr(kw.visualization, "plot_history", plot)
    flags = "--method=wake-adaptive --latest-start=1 --ramp-epochs=2".split()
    start(tmp_path / "run", *flags)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["found_ramp"] == [1, 3]
    assert record["settings"]["start_epoch"] is None
    assert record["settings"]["latest_start"] == 1
    weights = [epoch["kd_weight"] for epoch in record["epochs"]]
    assert weights == [0, 0.5, 1]
    assert (tmp_path / "run" / "correlation_epochs.png").exists()
    assert "never began" not in capsys.readouterr().out
    # Reported again, it is still known.
    start(tmp_path / "run", *flags, "--resume")
    marks = [call.kwargs for call in plot.call_args_list]
    assert [mark["start_epoch"] for mark in marks] == [1, 1]
    assert [mark["end_epoch"] for mark in marks] == [3, 3]


def test_run_that_ended_before_distillation_says_so(examples, capsys):
    def say(name, *weights):
        args = parse(examples, f"--method={name}")
        ramp = types.SimpleNamespace(start_epoch=args.start_epoch)
        examples.report.print_what_never_began(
            args,
            types.SimpleNamespace(
                method=examples.methods.METHODS[name],
                ramp=None if name == "wake-adaptive" else ramp,
            ),
            types.SimpleNamespace(teacher_in_use=True),
            types.SimpleNamespace(
                content={"epochs": [{"kd_weight": w} for w in weights]}
            ),
        )
        return capsys.readouterr().out

    never = [0.0] * 4
    assert "after epoch t_s = 12, and the run has 4 epochs" in (
        say("wake", *never)
    )
    assert "no epoch t_s was found" in say("wake-adaptive", *never)
    assert not say("wake", *never, 0.5)
    assert not say("at", *never)


@pytest.mark.slow
def test_kdswa_learns_from_networks_of_earlier_runs(
    finished_run, start, tmp_path, capsys
):
    network = finished_run.run_dir / "robust.keras"
    flags = (
        *("--method=kdswa", f"--standard-teacher={network}"),
        *("--swa-start=2", "--early-stop=3"),
    )
    start(tmp_path / "kdswa", *flags, f"--robust-teacher={network}")
    record = json.loads((tmp_path / "kdswa" / "record.json").read_text())
    weights = [epoch["kd_weight"] for epoch in record["epochs"]]
    assert weights == pytest.approx([0.7] * 3)
    # The average is there from its first epoch on, and is the result.
    key = "val_teacher_robust_accuracy"
    assert [key in epoch for epoch in record["epochs"]] == [False, True, True]
    networks = {row["network"] for row in record["table"]}
    assert networks == {"student", "teacher"}
    keras.models.load_model(tmp_path / "kdswa" / "robust.keras")
    assert "never began" not in capsys.readouterr().out
    # With another teacher it is another run.
    shutil.copy(network, tmp_path / "other.keras")
    with open(tmp_path / "other.keras", "ab") as file:
        file.write(b"1")
    other = f"--robust-teacher={tmp_path / 'other.keras'}"
    with pytest.raises(SystemExit):
        start(tmp_path / "kdswa", *flags, other, "--resume")
    assert "Differing: robust_teacher_sha256:" in capsys.readouterr().err


@pytest.mark.slow
def test_regular_training_is_looked_at_on_clean_images(
    start, tmp_path, monkeypatch, capsys
):
    plots = {}
    for name in ("plot_correlation_strip", "plot_correlation_matrix"):
        plots[name] = mock.Mock(wraps=getattr(kw.visualization, name))
        monkeypatch.setattr(kw.visualization, name, plots[name])
    start(tmp_path, "--method=standard", "--early-stop=3")
    record = json.loads((tmp_path / "record.json").read_text())
    calls = [call for plot in plots.values() for call in plot.call_args_list]
    assert [call.kwargs["vmax"] for call in calls] == [0.5] * 3
    assert (tmp_path / "best_val_accuracy.keras").exists()
    report = json.loads((tmp_path / "classes.json").read_text())
    assert report["attack"] is None
    # CAS is that of the saved network on clean images.
    rows = {row["epoch"]: row for row in record["table"]}
    network = keras.models.load_model(tmp_path / "robust.keras")
    x, y = kw.datasets.load("digits", test_limit=30, seed=0).arrays("test")
    matrix = kw.attribution.correlation_matrix(network, (x, y))
    assert rows["last"]["cas_images"] == "clean"
    cas = pytest.approx(kw.attribution.cas(matrix), abs=1e-3)
    assert rows["last"]["cas"] == cas
    assert "CAS is that of clean images." in capsys.readouterr().out
    best = keras.models.load_model(tmp_path / "best.keras")
    right = np.mean(np.argmax(best.predict(x, verbose=0), axis=1) == y)
    assert rows["best"]["clean"] == pytest.approx(right, abs=1e-6)


@pytest.mark.slow
def test_collapse_of_fast_at_is_in_the_record(start, tmp_path):
    start(tmp_path, "--method=fast-at", "--epochs=2")
    record = json.loads((tmp_path / "record.json").read_text())
    for epoch in record["epochs"]:
        for steps in ("single", "multi"):
            assert 0 <= epoch[f"{steps}_step_accuracy"] <= 1


def test_matrices_of_chosen_epochs(examples, capsys):
    args = types.SimpleNamespace(method="at", matrix_epochs=[2, 6, 9])
    splits = types.SimpleNamespace(class_names=("a", "b"))
    figures = examples.figures.Figures(args, splits)
    assert figures._chosen([2, 4, 6], best=4) == [2, 6]
    assert "ended before --matrix-epochs [9]" in capsys.readouterr().out
    args.matrix_epochs = None
    assert figures._chosen([2, 4, 6], best=4) == [2, 4, 6]
    for epochs, best, expected in (
        ([1], 1, [1]),
        ([1, 2, 3], 2, [1, 2, 3]),
        (list(range(4, 64, 4)), 16, [4, 12, 16, 24, 60]),
        (list(range(1, 101)), 100, [1, 20, 40, 60, 100]),
    ):
        assert figures._chosen(epochs, best) == expected
