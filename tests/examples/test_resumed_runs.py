"""Runs that are continued, on a full disk too, and what is refused."""

import errno
import json
import math
import os
import re
import types
from unittest import mock

import keras
import numpy as np
import pytest
from run_files import assert_same
from run_files import strict_json

import keras_wake as kw
from keras_wake.checkpoint import archive


def test_folder_with_a_run_is_refused(finished_run, refused):
    before = (finished_run.run_dir / "record.json").read_text()
    assert (
        f"--run-dir {finished_run.run_dir} already holds a run. Continue it "
        "with --resume, or choose another folder."
    ) in refused(finished_run.run_dir)
    assert (finished_run.run_dir / "record.json").read_text() == before
    assert "Differing: seed: 0 there, 3 here; steps: 1 there, 2 here." in (
        refused(finished_run.run_dir, "--resume", "--steps=2", "--seed=3")
    )


NONE = "--resume: there is no run in {run}."
ORPHAN = "{run} holds the backup of a run whose record.json is missing"
DAMAGED = "--resume: {run}/record.json is damaged"


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({}, ["--resume"], NONE),
        ({"backup/backup.npz": ""}, [], ORPHAN),
        ({"backup/backup.npz": ""}, ["--resume"], ORPHAN),
        ({"record.json": "{"}, ["--resume"], DAMAGED),
        ({"record.json": "[]"}, ["--resume"], DAMAGED),
        ({"record.json": '{"settings": 3}'}, ["--resume"], DAMAGED),
    ],
)
def test_folder_without_a_good_record_is_refused_and_left(
    refused, tmp_path, files, flags, message
):
    run = tmp_path / "run"
    for name, text in files.items():
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text(text)
    assert message.format(run=run) in refused(run, *flags)
    assert run.exists() == bool(files)
    left = {p.relative_to(run).as_posix(): p for p in run.rglob("*.*")}
    assert {name: path.read_text() for name, path in left.items()} == files


@pytest.mark.slow
def test_resume_without_the_backup_starts_again_and_keeps_the_record(
    finished_run, copy_of_run, start, refused, capsys
):
    (copy_of_run / "backup" / "backup.npz").write_bytes(b"damaged")
    # The advice that is printed works.
    assert "Delete it to start from the" in refused(copy_of_run, "--resume")
    (copy_of_run / "backup" / "backup.npz").unlink()
    (copy_of_run / "record_before.json").write_text("an older one")
    network = (copy_of_run / "best_val_robust_accuracy.keras").read_bytes()
    start(copy_of_run, "--resume")
    printed = capsys.readouterr().out
    assert "has 3 epochs, and there is no backup of them" in printed
    assert "record.json is now record_before2.json." in printed
    before = strict_json(copy_of_run / "record_before2.json")
    assert before == finished_run.record
    assert (copy_of_run / "record_before.json").read_text() == "an older one"
    aside = copy_of_run / "best_val_robust_accuracy_before.keras"
    assert aside.read_bytes() == network
    record = strict_json(copy_of_run / "record.json")
    assert_same(record["epochs"], finished_run.record["epochs"])
    assert record["resumed_commits"] == []


def test_records_of_older_runs_can_be_resumed(examples):
    # As they were: no choice of precision, and flags of all methods.
    there = {"method": "at", "beta": 6.0, "decay": 0.999, "seed": 0}
    here = {"method": "at", "seed": 0, "precision": "float32"}
    here |= dict.fromkeys(("beta", "decay", "latest_start", "batch_norm"))
    differences = examples.settings.differences
    assert differences(there, here) == ""
    here["precision"] = "mixed_float16"
    assert differences(there, here) == (
        "precision: 'float32' there, 'mixed_float16' here"
    )
    # Teachers that are not known may be any, known ones have to be these.
    there = {"method": "kdswa"}
    here = {"method": "kdswa", "robust_teacher_sha256": "aa"}
    assert differences(there, here) == ""
    there["robust_teacher_sha256"] = "bb"
    assert "'bb' there, 'aa' here" in differences(there, here)


def test_interrupted_run_continues(
    finished_run, start, tmp_path, monkeypatch, capsys
):
    write = archive.write

    def interrupt(path, state, values):
        if state["epoch"] == 2:
            raise KeyboardInterrupt
        write(path, state, values)

    # The worst moment: an epoch is in the record and not in the backup.
    with monkeypatch.context() as patch:
        patch.setattr(archive, "write", interrupt)
        with pytest.raises(SystemExit) as stop:
            start(tmp_path)
    assert stop.value.code == 130
    message = capsys.readouterr().err
    assert "Interrupted after 2 of 3 epochs. Continue with:" in message
    assert f"--run-dir={tmp_path} --resume" in message
    assert len(strict_json(tmp_path / "record.json")["epochs"]) == 2

    start(tmp_path, "--resume")
    record = strict_json(tmp_path / "record.json")
    assert_same(record["epochs"], finished_run.record["epochs"])
    assert_same(record["table"], finished_run.record["table"])
    assert record["resumed_commits"] == [record["commit"]]
    backups = [path.name for path in (tmp_path / "backup").glob("*.npz")]
    assert backups == ["backup.npz"]
    assert not list(tmp_path.rglob("*unfinished*"))


def test_figure_that_fails_does_not_cost_the_others(
    finished_run, copy_of_run, start, monkeypatch, capsys
):
    def no_training(*args):
        raise AssertionError("there is nothing to train")

    monkeypatch.setattr(kw.WakeModel, "train_step", no_training)
    for name, error in (
        ("plot_history", OSError(errno.ENOSPC, "No space left on device")),
        ("plot_class_report", RuntimeError("no room for a figure")),
    ):
        plot = mock.Mock(side_effect=error)
        monkeypatch.setattr(kw.visualization, name, plot)
    for path in (*copy_of_run.glob("*.png"), copy_of_run / "robust.keras"):
        path.unlink()
    start(copy_of_run, "--resume", "--matrix-epochs", "1", "3")
    printed = capsys.readouterr()
    assert "curves.png could not be drawn: [Errno 28] No space" in printed.err
    # A traceback for what nobody expects, and for nothing else.
    assert printed.err.count("Traceback") == 1
    assert "RuntimeError: no room for a figure" in printed.err
    drawn = {path.name for path in copy_of_run.glob("*.png")}
    before = {path.name for path in finished_run.run_dir.glob("*.png")}
    assert drawn == before - {"curves.png", "classes.png"}
    assert "complete" not in printed.out
    assert re.search(r"^last +teacher", printed.out, re.M)
    assert (copy_of_run / "robust.keras").exists()
    record = strict_json(copy_of_run / "record.json")
    assert record["epochs"] == finished_run.record["epochs"]
    assert_same(record["table"], finished_run.record["table"])


@pytest.mark.slow
def test_full_disk_in_the_middle_is_said_and_made_good(
    finished_run, start, tmp_path, monkeypatch, capsys
):
    replace = os.replace
    epochs = []

    def second_epoch_fails(*args):
        if epochs[-1:] == [1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*args)

    monkeypatch.setattr(os, "replace", second_epoch_fails)
    monkeypatch.setattr(
        kw.EMATeacher,
        "on_test_begin",
        lambda self, logs: epochs.append(len(epochs)),
    )
    with (
        pytest.warns(UserWarning, match="epoch 2 could not be.*An earlier"),
        pytest.warns(UserWarning, match="The matrix .* stays in memory"),
    ):
        start(tmp_path)
    message = capsys.readouterr().err
    assert "The record could not be written: [Errno 28] No space" in message
    record = strict_json(tmp_path / "record.json")
    assert_same(record["epochs"], finished_run.record["epochs"])
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.slow
def test_record_that_fell_behind_the_backup_is_completed(
    finished_run, copy_of_run, start
):
    record = strict_json(copy_of_run / "record.json")
    del record["epochs"][1:]
    (copy_of_run / "record.json").write_text(json.dumps(record))
    (copy_of_run / "history.csv").unlink()
    start(copy_of_run, "--resume")
    record = strict_json(copy_of_run / "record.json")
    assert record["epochs"] == finished_run.record["epochs"]
    history = (copy_of_run / "history.csv").read_text()
    assert history == (finished_run.run_dir / "history.csv").read_text()


def test_result_that_cannot_be_written_is_an_error(
    examples, copy_of_run, start, monkeypatch, capsys
):
    before = (copy_of_run / "robust.keras").read_bytes()

    def full(self, path):
        path.write_bytes(b"half a network")
        raise OSError(errno.ENOSPC, "No space left on device")

    def one_network(args, parts, model, *others):
        network = model.robust_classifier
        return examples.report.save(model, network, copy_of_run, "robust.keras")

    trained = mock.Mock(return_value=types.SimpleNamespace(history=[]))
    monkeypatch.setattr(examples.training, "train", trained)
    # The report as it is saves where it can; here one network is enough.
    monkeypatch.setattr(examples.report, "report", one_network)
    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(SystemExit) as stop:
        start(copy_of_run, "--resume")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    failure = "The network robust.keras could not be written: [Errno 28]"
    assert failure in message
    assert "Make room and complete it with:\npython" in message
    assert (copy_of_run / "robust.keras").read_bytes() == before
    assert not list(copy_of_run.rglob("*unfinished*"))


def test_record_is_strict_json_also_with_nan(examples, tmp_path):
    record = examples.record.Record(tmp_path, {"seed": 0}, "a device")
    record.add_epoch({"loss": math.nan, "val_cas": np.float32(1.5)}, 2.0)
    record.add_epoch({"loss": math.inf}, 2.0)
    record.write()
    content = strict_json(tmp_path / "record.json")
    assert content["epochs"] == [
        {"epoch": 1, "loss": None, "val_cas": 1.5},
        {"epoch": 2, "loss": None},
    ]
    assert content["seconds"] == 4.0
    table = (tmp_path / "history.csv").read_text().splitlines()
    assert table == ["epochs,loss,val_cas", "1,,1.5", "2,,"]


def test_resumed_record_keeps_the_first_commit(examples, tmp_path, monkeypatch):
    # As written before there was a list of commits.
    settings = {"seed": 0, "method": "at"}
    written = {"settings": settings, "commit": "first", "epochs": []}
    (tmp_path / "record.json").write_text(json.dumps(written))
    commits = iter(("second", "third"))
    monkeypatch.setattr(examples.record, "_commit", lambda: next(commits))
    for _ in range(2):
        record = examples.record.Record(tmp_path, settings, "a device")
        record.load()
        record.write()
    content = strict_json(tmp_path / "record.json")
    assert content["commit"] == "first"
    assert content["resumed_commits"] == ["second", "third"]
