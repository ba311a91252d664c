"""The sweep over radii: what it trains, what it has, what it refuses."""

import json
import pathlib
import shutil
import subprocess
import types

import pytest


@pytest.fixture
def argv(tmp_path):
    return [
        *("--example=digits", "--epsilons", "4", "12.75", "--seeds", "0", "1"),
        *(f"--run-dir={tmp_path}", "--limit=90"),
    ]


def finish(examples, folder, table=True):
    """Leaves what a run of the sweep leaves in its folder."""
    epsilon = float(folder.name.split("epsilon")[1].split("-")[0]) / 255
    method_and_radius = ["--method=at", f"--epsilon={epsilon!r}"]
    _, args = examples.flags.parse_args(
        "",
        examples.digits.DEFAULTS,
        [*method_and_radius, f"--seed={folder.name[-1]}", "--limit=90"],
    )
    row = {"network": "student", "robust": 0.4, "clean": 0.6, "cas": 3.0}
    validated = {"val_robust_accuracy": 0.4, "val_cas": 3.0}
    record = {
        "settings": examples.flags.settings_of(args),
        "epochs": [{"epoch": n, **validated} for n in (1, 2, 3)],
        "table": [{"epoch": e, **row} for e in ("best", "last")]
        if table
        else None,
    }
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record))


def test_folder_has_method_norm_radius_and_seed(examples, argv, tmp_path):
    sweep = examples.epsilon_sweep
    args, others = sweep.parse_args(argv)
    assert others == ["--limit=90"]
    _, script, *flags = sweep.command(args, others, 12.75, 1)
    assert script.endswith("digits.py")
    assert flags == [
        "--method=at",
        "--norm=linf",
        f"--epsilon={12.75 / 255!r}",
        "--seed=1",
        f"--run-dir={tmp_path / 'at-linf-epsilon12.75-seed1'}",
        "--limit=90",
    ]
    assert sweep.folder(args, 4.0, 0) != sweep.folder(args, 4.0000001, 0)


def test_trains_what_is_missing(examples, argv, tmp_path, monkeypatch, capsys):
    sweep = examples.epsilon_sweep
    finish(examples, tmp_path / "at-linf-epsilon4-seed0")
    # Killed in the evaluation, where robust.keras is there already.
    killed = tmp_path / "at-linf-epsilon4-seed1"
    finish(examples, killed, table=False)
    (killed / "robust.keras").touch()
    started = []

    def run(command, check):
        (path,) = (a for a in command if a.startswith("--run-dir="))
        path = pathlib.Path(path.removeprefix("--run-dir="))
        started.append((path.name, command[-1]))
        if path == killed:
            shutil.rmtree(path)
        finish(examples, path)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    sweep.main(argv)
    assert started == [
        ("at-linf-epsilon4-seed1", "--resume"),
        ("at-linf-epsilon12.75-seed0", "--limit=90"),
        ("at-linf-epsilon12.75-seed1", "--limit=90"),
    ]
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| at")]
    threats = [line.split(" | ")[1] for line in lines]
    assert threats == ["ℓ∞ 4/255", "ℓ∞ 12.75/255"] * 2


def test_run_with_other_settings_stops_the_sweep(
    examples, argv, tmp_path, monkeypatch
):
    # Nothing is to be trained.
    monkeypatch.setattr(subprocess, "run", None)
    finish(examples, tmp_path / "at-linf-epsilon4-seed1")
    with pytest.raises(SystemExit) as stop:
        examples.epsilon_sweep.main([*argv, "--epochs=7"])
    message = "epochs: 24 there, 7 here. Choose another --run-dir"
    assert message in stop.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epsilons 0", "--epsilons: must be a number above 0"),
        ("--early 0", "--early: must be a whole number of at least 1"),
        ("--example tables", "invalid choice: 'tables'"),
        ("--epsilon 8", "--epsilon is set by the sweep: use --epsilons."),
        ("--seed=3", "--seed is set by the sweep: use --seeds."),
        ("--resume", "--resume is set by the sweep: leave it out."),
        # What the example refuses.
        ("--stepz=3", "unrecognized arguments: --stepz=3"),
    ],
)
def test_refuses_before_the_first_run(
    examples, argv, monkeypatch, capsys, arguments, message
):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(SystemExit):
        examples.epsilon_sweep.main([*argv, *arguments.split()])
    assert message in capsys.readouterr().err
