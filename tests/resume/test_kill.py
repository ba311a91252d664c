"""A run that is killed again and again ends as one that was left alone.

`python -m pytest -m slow tests/resume` takes six minutes on two cores with
TensorFlow. There, all backends compute the same bits each time, so nothing is
tolerated.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_wake.checkpoint import archive

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 20
EPOCHS = 40
# Within an epoch after the first that a process finishes; before that, which
# is while it starts, compiles or takes its first steps; while it writes a
# file, after some epochs.
MOMENTS = ["epoch"] * 12 + ["start"] * 4 + ["writing"] * 4
SETTING = [
    *("--limit=120", "--test-limit=40", "--validation=40", "--batch-size=20"),
    *(f"--epochs={EPOCHS}", "--steps=2", "--eval-steps=2", "--augment=flip"),
]


class Run:
    """A process that trains in a folder, and what it says."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        resume = ["--resume"] * (run_dir / "record.json").exists()
        self.log = run_dir.with_suffix(".log")
        self.begin = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-u", str(ROOT / "examples/digits.py")),
                    *(*SETTING, f"--run-dir={run_dir}", *resume),
                ],
                env={
                    **os.environ,
                    "KERAS_BACKEND": keras.backend.backend(),
                    "PYTHONPATH": str(ROOT),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def running(self):
        """Whether it still runs; it must not have failed."""
        code = self.process.poll()
        assert code in (None, 0), self.log.read_text()[-3000:]
        return code is None

    def wait_for(self, condition, every=0.02, at_most=float("inf")):
        """Seconds until the condition held, or until it ended."""
        end = self.begin + at_most
        while self.running() and not condition() and time.monotonic() <= end:
            time.sleep(every)
        return time.monotonic() - self.begin

    def has_trained(self):
        """Whether an epoch has ended, with its backup."""
        return "/step - " in self.log.read_text()

    def evaluates(self):
        return "Evaluating on" in self.log.read_text()

    def writes(self):
        """Whether a file is being written that is not yet in its place."""
        names = os.listdir(self.run_dir) + os.listdir(self.run_dir / "backup")
        return any(name.startswith("unfinished_") for name in names)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def uninterrupted(run_dir):
    """Trains to the end; seconds until the first epoch ended, and of one."""
    run = Run(run_dir)
    started = run.wait_for(run.has_trained)
    ended = run.wait_for(run.evaluates)
    run.process.wait()
    assert not run.running()
    return started, (ended - started) / (EPOCHS - 1)


def killed(run_dir, started, epoch):
    """Trains to the end in spite of the kills; what these interrupted."""
    rng = random.Random(0)
    moments = list(MOMENTS)
    rng.shuffle(moments)
    seen = []
    for moment in moments:
        run = Run(run_dir)
        if moment == "start":
            run.wait_for(run.has_trained, at_most=rng.uniform(0, started))
        else:
            run.wait_for(run.has_trained)
            time.sleep(rng.uniform(0, epoch))
        if moment == "writing":
            run.wait_for(run.writes, every=0.0005)
        assert run.running(), "The run was over before the last kill."
        run.kill()
        seen.append(state(run_dir, moment))
        print(f"{time.monotonic() - run.begin:6.1f} s {seen[-1]}", flush=True)
    run = Run(run_dir)
    run.process.wait()
    assert not run.running()
    return seen


def state(run_dir, moment):
    """What a kill left behind, each file of which must be whole."""
    record, backup = run_dir / "record.json", run_dir / "backup" / "backup.npz"
    epochs = json.loads(record.read_text())["epochs"] if record.exists() else []
    return {
        "moment": moment,
        "record": len(epochs),
        "backup": archive.read(backup)[0]["epoch"] if backup.exists() else 0,
        "unfinished": [path.name for path in run_dir.rglob("unfinished_*")],
    }


def within(run_dir, state):
    """A state whose paths are those within the folder of the run."""
    if isinstance(state, dict):
        return {key: within(run_dir, item) for key, item in state.items()}
    if isinstance(state, list):
        return [within(run_dir, item) for item in state]
    return state.replace(str(run_dir), "") if isinstance(state, str) else state


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    started, epoch = uninterrupted(folder / "whole")
    print(f"\nFirst epoch after {started:.1f} s, then {epoch:.2f} s each")
    seen = killed(folder / "killed", started, epoch)
    return folder / "whole", folder / "killed", seen


@pytest.mark.slow
def test_finished_run_is_the_uninterrupted_one(runs):
    whole, killed, seen = runs
    assert len(seen) == KILLS
    # There was something to lose, and not only at the start.
    assert len({entry["backup"] for entry in seen}) > KILLS // 3
    assert any(entry["unfinished"] for entry in seen)

    record, expected = (
        json.loads((run_dir / "record.json").read_text())
        for run_dir in (killed, whole)
    )
    epochs = [epoch["epoch"] for epoch in record["epochs"]]
    assert epochs == list(range(1, EPOCHS + 1))
    assert record["epochs"] == expected["epochs"]
    assert record["table"] == expected["table"]
    assert len(record["resumed_commits"]) <= KILLS
    history = (killed / "history.csv").read_bytes()
    assert history == (whole / "history.csv").read_bytes()


@pytest.mark.slow
def test_weights_and_states_of_callbacks_are_the_same_bits(runs):
    whole, killed, _ = runs
    path = pathlib.Path("backup") / "backup.npz"
    found, values = archive.read(killed / path)
    expected, others = archive.read(whole / path)
    for value, other in zip(values, others, strict=True):
        np.testing.assert_array_equal(value, other)
    assert found["epoch"] == expected["epoch"] == EPOCHS
    assert found["data"] == expected["data"]
    for (name, state), (other, wanted) in zip(
        found["callbacks"], expected["callbacks"], strict=True
    ):
        assert name == other
        if name == "KeepRecord":  # The time is another one.
            state, wanted = state["epochs"], wanted["epochs"]
        np.testing.assert_equal(within(killed, state), within(whole, wanted))
    (matrices,) = (
        state["history"]
        for name, state in found["callbacks"]
        if name == "CrossClassAttribution"
    )
    assert [entry["epoch"] for entry in matrices] == list(range(1, EPOCHS + 1))


@pytest.mark.slow
def test_nothing_unfinished_is_left(runs):
    whole, killed, _ = runs
    files, expected = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        for folder in (killed, whole)
    )
    assert files == expected
    assert not any("unfinished" in name for name in files)
