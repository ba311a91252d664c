"""The methods of the runner: what each is made of, and the flags it takes."""

import json

import keras
import pytest

import keras_wake as kw

TEACHERS = ("--robust-teacher=at.keras", "--standard-teacher=standard.keras")


def parse(examples, *argv):
    return examples.flags.parse_args("", examples.digits.DEFAULTS, argv)[1]


def test_every_method_is_made_of_what_its_record_says(
    examples, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("at.keras", "standard.keras"):
        (tmp_path / name).touch()
    kinds = {
        "at": kw.objectives.AdversarialTraining,
        "trades": kw.objectives.TRADES,
        "mart": kw.objectives.MART,
        "standard": kw.objectives.Standard,
    }
    for name, method in examples.methods.METHODS.items():
        args = parse(examples, f"--method={name}", *TEACHERS)
        parts = examples.training.Parts(args)
        objective = parts.objective
        assert isinstance(objective, kw.objectives.AWP) == method.awp
        if method.awp:
            trades = method.objective == "trades"
            assert objective.gamma == (0.005 if trades else 0.01)
            objective = objective.objective
        assert type(objective) is kinds[method.objective]
        smoothing = getattr(objective, "label_smoothing", 0.0)
        assert smoothing == method.label_smoothing
        assert args.cutmix == method.cutmix
        assert isinstance(parts.attack, kw.attacks.FGSM) == method.single_step
        assert parts.eval_attack.steps == 20
        expected = {
            "wake": kw.schedules.DistillationRamp,
            "adaptive": kw.schedules.AdaptiveRamp,
        }.get(method.teacher, type(None))
        assert type(parts.schedule) is expected
        if method.teacher != "kdswa":
            callbacks = parts.teachers(args, None)
            averaged = method.teacher is not None
            assert [type(c) for c in callbacks] == [kw.EMATeacher] * averaged


def test_single_step_attack_is_that_of_fast_at(examples):
    args = parse(examples, "--method=fast-at", "--epsilon=0.1")
    expected = kw.attacks.FGSM.fast_at(0.1)
    attack = examples.training.Parts(args).attack
    assert attack.get_config() == expected.get_config()


def test_flags_overrule_the_method(examples):
    args = parse(
        examples,
        "--method=trades",
        "--label-smoothing=0.1",
        "--beta=3",
        "--cutmix=0.5",
    )
    objective = examples.training.Parts(args).objective
    assert objective.get_config() == {"beta": 3.0, "label_smoothing": 0.1}
    assert args.cutmix == 0.5


def test_kdswa_needs_its_teachers(examples, capsys):
    with pytest.raises(SystemExit):
        parse(examples, "--method=kdswa", "--robust-teacher=at.keras")
    assert "Missing: --standard-teacher" in capsys.readouterr().err
    args = parse(examples, "--method=kdswa", *TEACHERS)
    with pytest.raises(FileNotFoundError, match=r"no network at at\.keras"):
        examples.training.Parts(args)


def test_help_names_every_method(examples, capsys):
    with pytest.raises(SystemExit):
        parse(examples, "--help")
    printed = capsys.readouterr().out
    for name, method in examples.methods.METHODS.items():
        assert name in printed and method.summary in printed


def test_kdswa_learns_from_networks_of_earlier_runs(
    finished_run, start, tmp_path, capsys
):
    network = finished_run.run_dir / "robust.keras"
    start(
        tmp_path / "kdswa",
        "--method=kdswa",
        f"--robust-teacher={network}",
        f"--standard-teacher={network}",
        "--swa-start=2",
        "--early-stop=3",
    )
    record = json.loads((tmp_path / "kdswa" / "record.json").read_text())
    weights = [epoch["kd_weight"] for epoch in record["epochs"]]
    assert weights == pytest.approx([0.7] * 3)
    # The average is there from its first epoch on, and is the result.
    key = "val_teacher_robust_accuracy"
    assert [key in epoch for epoch in record["epochs"]] == [False, True, True]
    assert {row["network"] for row in record["table"]} == {
        "student",
        "teacher",
    }
    keras.models.load_model(tmp_path / "kdswa" / "robust.keras")
    assert "KDSWA" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("epochs", "best", "expected"),
    [
        ([1], 1, [1]),
        ([1, 2, 3], 2, [1, 2, 3]),
        (list(range(4, 64, 4)), 16, [4, 12, 16, 24, 60]),
        (list(range(1, 101)), 100, [1, 20, 40, 60, 100]),
    ],
)
def test_epochs_of_the_strip(examples, epochs, best, expected):
    assert examples.report.chosen_epochs(epochs, best) == expected
