"""The script that trains the runs of the results page and fills the page."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import ClassVar

import pytest


@pytest.fixture
def evidence(load):
    return load("evidence")


FIGURES = ("correlation_epochs.png", "correlation_difference.png")


class FakeProcess:
    """Ends at the second look, and leaves what a run leaves."""

    started: ClassVar[list[str]] = []
    failing: ClassVar[set[str]] = set()

    def __init__(self, command, **_):
        (folder,) = (a[10:] for a in command if a.startswith("--run-dir="))
        self.folder, self.looks = pathlib.Path(folder), 0
        self.started.append(self.folder.name)

    def poll(self):
        self.looks += 1
        if self.looks < 2:
            return None
        if self.folder.name in self.failing:
            return 1
        self.folder.mkdir()
        (self.folder / "record.json").write_text("{}")
        for name in ("robust.keras", *FIGURES):
            (self.folder / name).touch()
        return 0

    def terminate(self):
        raise AssertionError("All runs had ended.")


@pytest.fixture
def trained(evidence, tmp_path, monkeypatch):
    """Trains runs by names with `FakeProcess`; what was started, failures."""
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(evidence, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(evidence.subprocess, "Popen", FakeProcess)
    monkeypatch.setattr(evidence.time, "sleep", lambda seconds: None)

    def train(names, failing=(), jobs=2):
        FakeProcess.started, FakeProcess.failing = [], set(failing)
        args = argparse.Namespace(
            data_dir=tmp_path, runs=tmp_path / "runs", jobs=jobs
        )
        failed = evidence.train(names, args)
        return FakeProcess.started, failed

    return train


def test_trains_what_is_missing_in_order_of_need(trained, evidence, tmp_path):
    names = ["kdswa-seed0", "at-seed3", "standard-seed3", "trades-seed0"]
    started, failed = trained(names)
    assert failed == 0
    assert sorted(started) == sorted(names)
    # It learns from two of the others.
    assert started.index("kdswa-seed0") == 3
    assert {path.stem for path in evidence.RESULTS.iterdir()} == set(names)
    assert {path.name for path in evidence.IMAGES.iterdir()} == {
        f"at-seed3-{name}" for name in FIGURES
    }
    # A second time there is nothing to do.
    assert trained(names) == ([], 0)


def test_failure_of_a_run_keeps_the_others(trained, evidence, capsys):
    names = ["standard-seed3", "at-seed3", "kdswa-seed0", "trades-seed0"]
    started, failed = trained(names, failing=["standard-seed3"], jobs=1)
    assert started == ["standard-seed3", "at-seed3", "trades-seed0"]
    assert failed == 2
    assert evidence.is_kept("trades-seed0")
    assert not evidence.is_kept("kdswa-seed0")
    printed = capsys.readouterr().out
    assert "standard-seed3: failed" in printed
    assert "for want of" in printed and "kdswa-seed0" in printed


def test_flags_of_all_runs_are_those_of_the_example(
    evidence, examples, tmp_path
):
    for name, network in (("at", "best"), ("standard", "robust")):
        (tmp_path / f"{name}-seed3").mkdir()
        (tmp_path / f"{name}-seed3" / f"{network}.keras").touch()
    for name in evidence.RUNS:
        _, script, *flags = evidence.command(name, tmp_path, tmp_path)
        assert script.endswith("cifar10.py")
        _, args = examples.flags.parse_args(
            "", examples.cifar10.DEFAULTS, flags
        )
        assert name.endswith(f"-seed{args.seed}")
        assert name.startswith(args.method) or name.startswith("l2-")
        assert (args.epochs, args.limit, args.resume) == (60, 3000, False)
    (tmp_path / "at-seed3" / "record.json").touch()
    again = evidence.command("at-seed3", tmp_path, tmp_path)
    assert again[-1] == "--resume"


def test_page_has_what_the_records_say(evidence):
    found = evidence.records()
    kept = {path.stem for path in evidence.RESULTS.glob("*.json")}
    assert len(found) == len(kept) > 0 and kept <= set(evidence.RUNS)
    page = evidence.PAGE.read_text()
    assert evidence.filled(page, evidence.sections(found)) == page
    for record in found:
        assert len(record["epochs"]) == record["settings"]["epochs"]
        assert "CIFAR-10 (JPEG)" in page


def test_stronger_attacks_leave_less(evidence):
    header, _, *rows = evidence.autoattack_table().splitlines()
    names = [name.strip() for name in header.strip("|").split("|")]
    assert rows
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        found = dict(zip(names, cells, strict=True))
        attacks = ("PGD-20", "APGD-CE", "APGD-T", "Square")
        left = [float(found[name]) for name in ("clean", *attacks)]
        assert left == sorted(left, reverse=True) and left[-1] < left[0]


def test_tables_come_between_their_markers(evidence):
    page = "a\n<!-- table: x -->\nold\n<!-- end of table -->\nb"
    filled = evidence.filled(page, {"x": "new"})
    assert filled == ("a\n<!-- table: x -->\n\nnew\n\n<!-- end of table -->\nb")
    assert evidence.filled(filled, {"x": "new"}) == filled
    with pytest.raises(ValueError, match="The page has the tables"):
        evidence.filled(page, {"x": "new", "y": "new"})


def test_curves_are_those_of_the_records(evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "IMAGES", tmp_path)
    found = evidence.records()
    wanted = {"method": "at", "seed": 0, "epsilon": 8 / 255}
    (at,) = (r for r in found if wanted.items() <= r["settings"].items())
    curve = evidence.history(at)
    assert curve["epochs"] == list(range(4, 61, 4))
    assert curve["robust"][-1] == at["epochs"][-1]["val_robust_accuracy"]
    evidence.draw(found)
    figures = ("robust_overfitting", "methods", "epsilon")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {f"{name}.png" for name in figures}


TERMINATED = """
import pathlib, sys

sys.path.insert(0, {benchmarks!r})
import evidence

evidence.RESULTS = pathlib.Path({folder!r})
run = "import os, time; print(os.getpid(), flush=True); time.sleep(120)"
evidence.command = lambda *_: [sys.executable, "-c", run]
evidence.main(
    ["train", "--data-dir=x", "--runs={folder}", "--only", "at-seed0"]
)
"""


def test_runs_end_with_the_script(evidence, tmp_path):
    benchmarks = str(pathlib.Path(evidence.__file__).parent)
    code = TERMINATED.format(benchmarks=benchmarks, folder=str(tmp_path))
    script = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "at-seed0.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    script.terminate()
    assert script.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_command_line(evidence, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(evidence.signal, "signal", lambda *_: None)
    monkeypatch.setattr(evidence, "report", lambda: calls.append("report"))
    monkeypatch.setattr(
        evidence, "train", lambda names, args: calls.append(names) or 1
    )
    evidence.main(["report"])
    with pytest.raises(SystemExit):
        evidence.main(["train", "--data-dir=x", "--only", "at-seed3"])
    assert calls == ["report", ["at-seed3"]]
    with pytest.raises(SystemExit):
        evidence.main(["train", "--data-dir=x", "--only", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
