"""The script that drives a network into the collapse, in a small setting."""

import types

import numpy as np
import pytest


def test_watches_single_steps_and_draws(examples, tmp_path, capsys):
    script = examples.catastrophic_overfitting
    script.main(
        [
            *("--limit=120", "--warm-up=1", "--epochs=2", "--batch-size=30"),
            f"--run-dir={tmp_path}",
        ]
    )
    printed = capsys.readouterr().out
    assert "epoch  single step  multi step   CAS" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert [row[0] for row in rows if row and row[-1][-2:-1] == "."][-2:] == [
        "1",
        "2",
    ]


@pytest.mark.parametrize("collapsed", [[False, True], [False, False]])
def test_draws_only_a_collapse(examples, tmp_path, capsys, collapsed):

    script = examples.catastrophic_overfitting
    checks = [
        {
            "epoch": epoch,
            "single_step_accuracy": 0.8,
            "multi_step_accuracy": 0.1,
            "collapsed": bad,
        }
        for epoch, bad in enumerate(collapsed, start=1)
    ]
    entries = [
        {"epoch": epoch, "correlation": np.eye(3), "cas": 0.0}
        for epoch in (1, 2)
    ]
    script.report(
        types.SimpleNamespace(run_dir=tmp_path),
        types.SimpleNamespace(class_names=["a", "b", "c"]),
        types.SimpleNamespace(history=checks, collapsed=any(collapsed)),
        types.SimpleNamespace(history=entries),
        {"val_robust_accuracy": [0.4, 0.1]},
    )
    drawn = {path.name for path in tmp_path.iterdir()}
    figures = {"collapse.png", "collapse_difference.png"}
    assert drawn == (figures if any(collapsed) else set())
    assert ("No collapse" in capsys.readouterr().out) != any(collapsed)
