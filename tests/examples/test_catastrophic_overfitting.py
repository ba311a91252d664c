"""The script that drives a network into the collapse."""

import re
import types
from unittest import mock

import numpy as np
import pytest

COLLAPSE = [
    {
        "epoch": epoch,
        "single_step_accuracy": single,
        "multi_step_accuracy": multi,
        "collapsed": collapsed,
        "correlation": np.eye(3),
        "cas": 0.0,
        "val_robust_accuracy": multi,
        "phase": "PGD",
    }
    for epoch, single, multi, collapsed in (
        (1, 0.4, 0.30, False),
        (2, 0.5, 0.40, False),
        (3, 0.5, 0.35, False),
        (4, 0.9, 0.05, True),
        # It comes back for an epoch, better than before.
        (5, 0.6, 0.50, False),
        (6, 0.8, 0.02, True),
        (7, 0.8, 0.10, True),
    )
]


def report(examples, checks, folder):
    examples.catastrophic_overfitting.report(
        types.SimpleNamespace(run_dir=folder),
        types.SimpleNamespace(class_names=["a", "b", "c"]),
        checks,
    )
    return {path.name for path in folder.iterdir()}


def test_before_is_before_the_first_collapse(examples, tmp_path, capsys):
    before, after = examples.catastrophic_overfitting.before_and_after(COLLAPSE)
    assert (before["epoch"], after["epoch"]) == (2, 6)
    drawn = report(examples, COLLAPSE, tmp_path)
    names = ("collapse", "collapse_curves", "collapse_difference")
    assert drawn == {f"{name}.png" for name in names}
    printed = capsys.readouterr().out
    for line in (
        "Before the collapse, epoch 2: 50.0% under a single step, 40.0%",
        "After the collapse, epoch 6: 80.0% under a single step, 2.0%",
    ):
        assert line in printed


@pytest.mark.parametrize("checks", [COLLAPSE[:3], COLLAPSE[3:]])
def test_draws_no_matrices_without_a_collapse(
    examples, tmp_path, capsys, checks
):
    assert report(examples, checks, tmp_path) == {"collapse_curves.png"}
    assert "No collapse after a good epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_watches_both_phases(examples, tmp_path, capsys):
    flags = "--limit=90 --warm-up=1 --epochs=1 --batch-size=30".split()
    examples.catastrophic_overfitting.main([*flags, f"--run-dir={tmp_path}"])
    printed = capsys.readouterr().out
    assert "epoch  single step  multi step   CAS  trained with" in printed
    assert re.search(r"^ +1 .*% .*  PGD$", printed, re.M)
    assert re.search(r"^ +2 .*% .*  single steps", printed, re.M)


@pytest.mark.slow  # A minute on two cores.
def test_digits_really_collapse(examples, tmp_path, monkeypatch):
    script = examples.catastrophic_overfitting
    report = mock.Mock(wraps=script.report)
    monkeypatch.setattr(script, "report", report)
    with pytest.warns(UserWarning, match="Catastrophic overfitting"):
        script.main([f"--run-dir={tmp_path}"])
    before, after = script.before_and_after(report.call_args.args[2])
    assert before["multi_step_accuracy"] >= 0.3
    assert after["multi_step_accuracy"] < 0.1
    # A single step alone would not show it.
    single = "single_step_accuracy"
    assert after[single] > before[single] - 0.1
    assert (tmp_path / "collapse.png").exists()
    assert (tmp_path / "collapse_difference.png").exists()
