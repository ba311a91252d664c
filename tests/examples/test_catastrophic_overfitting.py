"""The script that drives a network into the collapse."""

import re
import types

import numpy as np
import pytest


def check(epoch, single, multi, collapsed):
    return {
        "epoch": epoch,
        "single_step_accuracy": single,
        "multi_step_accuracy": multi,
        "collapsed": collapsed,
        "correlation": np.eye(3),
        "cas": 0.0,
        "val_robust_accuracy": multi,
        "phase": "PGD",
    }


COLLAPSE = [
    check(1, 0.4, 0.30, False),
    check(2, 0.5, 0.40, False),
    check(3, 0.5, 0.35, False),
    check(4, 0.9, 0.05, True),
    # It comes back for an epoch, better than before.
    check(5, 0.6, 0.50, False),
    check(6, 0.8, 0.02, True),
    check(7, 0.8, 0.10, True),
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
    assert report(examples, COLLAPSE, tmp_path) == {
        *("collapse.png", "collapse_curves.png", "collapse_difference.png"),
    }
    printed = capsys.readouterr().out
    assert (
        "Before the collapse, epoch 2: 50.0% under a single step, 40.0%"
    ) in printed
    assert (
        "After the collapse, epoch 6: 80.0% under a single step, 2.0%"
    ) in printed


@pytest.mark.parametrize("checks", [COLLAPSE[:3], COLLAPSE[3:]])
def test_draws_no_matrices_without_a_collapse(
    examples, tmp_path, capsys, checks
):
    assert report(examples, checks, tmp_path) == {"collapse_curves.png"}
    assert "No collapse after a good epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_watches_both_phases(examples, tmp_path, capsys):
    examples.catastrophic_overfitting.main(
        [
            *("--limit=90", "--warm-up=1", "--epochs=1", "--batch-size=30"),
            f"--run-dir={tmp_path}",
        ]
    )
    printed = capsys.readouterr().out
    assert "epoch  single step  multi step   CAS  trained with" in printed
    assert re.search(r"^ +1 .*% .*  PGD$", printed, re.M)
    assert re.search(r"^ +2 .*% .*  single steps", printed, re.M)


@pytest.mark.slow  # A minute on two cores.
def test_digits_really_collapse(examples, tmp_path, monkeypatch):
    script = examples.catastrophic_overfitting
    seen = []
    report = script.report
    monkeypatch.setattr(
        script, "report", lambda *args: (seen.extend(args[2]), report(*args))
    )
    with pytest.warns(UserWarning, match="Catastrophic overfitting"):
        script.main([f"--run-dir={tmp_path}"])
    before, after = script.before_and_after(seen)
    assert before["multi_step_accuracy"] >= 0.3
    assert after["multi_step_accuracy"] < 0.1
    # A single step alone would not show it.
    single = "single_step_accuracy"
    assert after[single] > before[single] - 0.1
    assert (tmp_path / "collapse.png").exists()
    assert (tmp_path / "collapse_difference.png").exists()
