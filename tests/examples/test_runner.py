"""The examples: what a run writes, refuses, and continues."""

import csv
import errno
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import keras_wake as kw
from keras_wake.callbacks import _backup_file

ROOT = pathlib.Path(__file__).parents[2]
NETWORKS = [
    ("best", "student"),
    ("best", "teacher"),
    ("last", "student"),
    ("last", "teacher"),
]


def strict_json(path):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def assert_same(rows, others):
    """The same texts and numbers; threads may add in another order."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=1e-4, abs=1e-6)
            assert other[key] == value


def test_record_holds_settings_commit_and_every_epoch(finished_run, examples):
    record = strict_json(finished_run.run_dir / "record.json")
    assert record["settings"]["dataset"] == "digits"
    assert record["settings"]["epsilon"] == 0.15
    assert record["settings"]["step_size"] == 0.15 / 4
    # Half of three epochs, and 55 %.
    assert record["settings"]["start_epoch"] == 1
    assert record["settings"]["end_epoch"] == 2
    assert re.fullmatch(r"unknown|\S+", record["commit"])
    assert record["resumed_commits"] == []
    assert record["versions"]["keras"] == keras.__version__
    assert record["device"] == examples.devices.describe()
    assert record["seconds"] > 0
    assert [e["epoch"] for e in record["epochs"]] == [1, 2, 3]
    assert [e["kd_weight"] for e in record["epochs"]] == [0, 1, 1]
    for epoch in record["epochs"]:
        assert {"loss", "val_cas", "val_teacher_robust_accuracy"} <= set(epoch)


def test_history_is_what_plot_history_draws(finished_run):
    with open(finished_run.run_dir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epochs"] for row in rows] == ["1", "2", "3"]
    assert "epoch" not in rows[0]
    figure = kw.visualization.plot_history(rows)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    drawn = lines["student, robust"]
    assert list(drawn.get_xdata()) == [1, 2, 3]
    assert list(drawn.get_ydata()) == [
        epoch["val_robust_accuracy"] for epoch in finished_run.record["epochs"]
    ]


def test_figures_and_network_are_in_the_folder(finished_run):
    figures = {path.name for path in finished_run.run_dir.glob("*.png")}
    optional = {"correlation_difference.png", "shared_pairs.png"}
    assert figures - optional == {
        "adversarial_examples.png",
        "classes.png",
        "correlation_epochs.png",
        "curves.png",
        *(f"correlation_{epoch}_{network}.png" for epoch, network in NETWORKS),
    }
    for name in figures:
        with Image.open(finished_run.run_dir / name) as image:
            image.verify()
    network = keras.models.load_model(finished_run.run_dir / "robust.keras")
    assert network.input_shape == (None, 8, 8, 1)
    # The teacher at the last epoch: its clean accuracy is that of the table.
    data = kw.datasets.load("digits", test_limit=30, seed=0)
    x, y = data.arrays("test")
    right = np.mean(np.argmax(network.predict(x, verbose=0), axis=1) == y)
    (row,) = (
        row
        for row in finished_run.record["table"]
        if (row["epoch"], row["network"]) == ("last", "teacher")
    )
    assert row["clean"] == pytest.approx(right, abs=1e-6)


def test_prints_the_table(finished_run):
    table = finished_run.record["table"]
    assert [(row["epoch"], row["network"]) for row in table] == NETWORKS
    printed = finished_run.printed
    assert "60 training, 30 validation and 30 test images" in printed
    assert "1 replica;" in printed
    assert "Everything is in" in printed
    assert re.search(r"^epoch +network +clean +robust +CAS$", printed, re.M)
    for row in table:
        line = (
            f"{row['epoch']} +{row['network']} +{row['clean']:.1%} +"
            f"{row['robust']:.1%} +{row['cas']:.1f}"
        )
        assert re.search(line, printed)


def test_folder_with_a_run_is_refused(finished_run, start, capsys):
    before = (finished_run.run_dir / "record.json").read_text()
    with pytest.raises(SystemExit) as stop:
        start(finished_run.run_dir)
    assert stop.value.code == 2
    assert (
        f"--run-dir {finished_run.run_dir} already holds a run. Continue it "
        "with --resume, or choose another folder."
    ) in capsys.readouterr().err
    assert (finished_run.run_dir / "record.json").read_text() == before


def test_resume_without_a_run_is_refused(start, tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(tmp_path / "none", "--resume")
    assert "--resume: there is no run in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_resume_with_other_settings_is_refused(finished_run, start, capsys):
    with pytest.raises(SystemExit):
        start(finished_run.run_dir, "--resume", "--steps=2", "--seed=3")
    assert (
        "Differing: seed: 0 there, 3 here; steps: 1 there, 2 here."
    ) in capsys.readouterr().err


def test_resume_without_the_backup_is_refused(copy_of_run, start, capsys):
    for path in (copy_of_run / "backup").iterdir():
        path.unlink()
    with pytest.raises(SystemExit):
        start(copy_of_run, "--resume")
    assert (
        "has 3 epochs, but the backup beside it is that of epoch 0"
    ) in capsys.readouterr().err
    # Nothing is lost.
    assert len(strict_json(copy_of_run / "record.json")["epochs"]) == 3


def test_interrupted_run_continues(
    finished_run, start, tmp_path, monkeypatch, capsys
):
    write = _backup_file.write

    def interrupt(path, state, values):
        if state["epoch"] == 2:
            raise KeyboardInterrupt
        write(path, state, values)

    # The worst moment: an epoch is in the record and not in the backup.
    with monkeypatch.context() as patch:
        patch.setattr(_backup_file, "write", interrupt)
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
    backups = [path.name for path in (tmp_path / "backup").iterdir()]
    assert backups == ["backup.npz"]
    assert not list(tmp_path.rglob("*unfinished*"))


def test_finished_run_only_reports_again_also_without_figures(
    finished_run, copy_of_run, start, monkeypatch, capsys
):
    def fail(*args, **kwargs):
        raise RuntimeError("no room for a figure")

    monkeypatch.setattr(kw.WakeModel, "train_step", fail)
    monkeypatch.setattr(kw.visualization, "plot_history", fail)
    (copy_of_run / "robust.keras").unlink()
    start(copy_of_run, "--resume")
    printed = capsys.readouterr()
    assert "no room for a figure" in printed.err
    assert "Not all figures could be drawn; everything else" in printed.out
    assert re.search(r"^last +teacher", printed.out, re.M)
    assert (copy_of_run / "robust.keras").exists()
    record = strict_json(copy_of_run / "record.json")
    assert record["epochs"] == finished_run.record["epochs"]
    assert_same(record["table"], finished_run.record["table"])


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
    with pytest.warns(UserWarning, match="The backup of epoch 1 stays"):
        start(tmp_path)
    message = capsys.readouterr().err
    assert "The record could not be written: [Errno 28] No space" in message
    record = strict_json(tmp_path / "record.json")
    assert_same(record["epochs"], finished_run.record["epochs"])
    assert not list(tmp_path.rglob("*unfinished*"))


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
    copy_of_run, start, monkeypatch, capsys
):
    before = (copy_of_run / "robust.keras").read_bytes()

    def full(path):
        path.write_bytes(b"half a network")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", lambda self, path: full(path))
    with pytest.raises(SystemExit) as stop:
        start(copy_of_run, "--resume")
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert re.search(r"^last +teacher", printed.out, re.M)
    assert "The network could not be written: [Errno 28]" in printed.err
    assert "Make room and complete it with:\npython" in printed.err
    assert (copy_of_run / "robust.keras").read_bytes() == before
    assert not list(copy_of_run.rglob("*unfinished*"))


def test_folder_of_images_without_a_teacher(
    start, tmp_path, monkeypatch, capsys
):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for label in range(10):
            folder = tmp_path / "data" / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    # Later options win. The best epoch is the only one that is validated.
    start(
        tmp_path / "run",
        f"--data-dir={tmp_path / 'data'}",
        "--method=at",
        "--model=small",
        "--limit=20",
        "--validation=10",
        "--test-limit=10",
        "--epochs=2",
        "--eval-every=2",
        example="cifar10",
    )
    record = strict_json(tmp_path / "run" / "record.json")
    assert record["settings"]["epsilon"] == 8 / 255
    assert "data_dir" not in record["settings"]
    assert "val_accuracy" not in record["epochs"][0]
    assert "val_robust_accuracy" in record["epochs"][1]
    assert [(row["epoch"], row["network"]) for row in record["table"]] == [
        ("best", "student"),
        ("last", "student"),
    ]
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert history[1].endswith(",,,,")
    assert "at on cifar10: 20 training, 10 valid" in capsys.readouterr().out


REPLICAS = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
import digits
import runner
from runner import devices
devices.replica_devices = lambda: ["CPU:0", "CPU:1"]
runner.main(digits.__doc__, digits.DEFAULTS, sys.argv[1:])
threads = tf.config.threading
print("One operation:", threads.get_intra_op_parallelism_threads())
print("Operations:", threads.get_inter_op_parallelism_threads())
"""


def test_trains_on_several_devices(small_setting, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-c", REPLICAS, *small_setting),
            *("--method=at", "--epochs=2", "--threads=4"),
            f"--run-dir={tmp_path}",
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 replicas;" in done.stdout
    # Two operations at a time, each with half of the threads.
    assert "One operation: 2\nOperations: 2\n" in done.stdout
    record = strict_json(tmp_path / "record.json")
    assert len(record["epochs"]) == 2
    assert [row["epoch"] for row in record["table"]] == ["best", "last"]
    assert (tmp_path / "adversarial_examples.png").exists()


def test_one_device_needs_no_strategy(examples):
    import tensorflow as tf

    with examples.devices.scope(examples.devices.start(0)) as replicas:
        assert not tf.distribute.has_strategy()
    assert replicas == 1


@pytest.mark.parametrize("script", ["digits", "cifar10"])
def test_help_explains_the_flags(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{script}.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^ *python examples/{script}.py$", done.stdout, re.M)
    for flag in ("--method", "--resume", "--data-dir", "--limit", "--model"):
        assert flag in done.stdout
    assert "(default: None)" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs=1", "--epochs: must be a whole number of at least 2"),
        ("--epochs=many", "at least 2. Received: 'many'"),
        ("--batch-size=0", "--batch-size: must be a whole number of at least"),
        ("--limit=-5", "--limit: must be a whole number of at least 1"),
        ("--eval-every=9", "Received: 9 of 3 epochs"),
        ("--validation=0", "--validation: must be a number above 0"),
        ("--validation=2.5", "a fraction below 1 or a whole number of images"),
        ("--learning-rate=nan", "--learning-rate: must be a number above 0"),
        ("--method=trade", "--method: invalid choice: 'trade'"),
        ("--epsilon=-1", "--epsilon: must be a number above 0"),
        ("--decay=1.5", "`decay` must be"),
        ("--start-epoch=5 --end-epoch=4", "start_epoch=5, end_epoch=4"),
        ("--limit=5000", "Received: limit=5000"),
        ("--data-dir=elsewhere", "digits are part of scikit-learn"),
    ],
)
def test_bad_arguments_are_refused(start, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        start(tmp_path / "run", *arguments.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    # A second try is not told that there is a run.
    assert not (tmp_path / "run" / "record.json").exists()


def test_missing_data_folder_is_refused(start, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        start(
            tmp_path / "run",
            f"--data-dir={tmp_path / 'nowhere'}",
            example="cifar10",
        )
    assert stop.value.code == 2
    assert "must be a folder that exists" in capsys.readouterr().err


def test_folder_that_cannot_be_written_is_refused_first(
    examples, start, tmp_path, monkeypatch, capsys
):
    def fail(*args, **kwargs):
        raise AssertionError("came too late")

    monkeypatch.setattr(examples.training, "load_data", fail)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        start(tmp_path / "file" / "run")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert f"--run-dir {tmp_path / 'file' / 'run'} cannot be written" in message


def test_learning_rate_drops_with_an_epoch(examples):
    # Seven epochs of five steps: divided after three and after five epochs.
    rate = examples.training.learning_rate(0.1, epochs=7, steps=5)
    found = [float(rate(step)) for step in range(35)]
    expected = [0.1] * 15 + [0.01] * 10 + [0.001] * 10
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_learning_rate_of_two_epochs(examples):
    # Both drops come at once.
    rate = examples.training.learning_rate(0.1, epochs=2, steps=3)
    found = [float(rate(step)) for step in range(6)]
    np.testing.assert_allclose(found, [0.1] * 3 + [0.001] * 3, rtol=1e-6)


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
    written = {"settings": {"seed": 0}, "commit": "first", "epochs": []}
    (tmp_path / "record.json").write_text(json.dumps(written))
    commits = iter(("second", "third"))
    monkeypatch.setattr(examples.record, "_commit", lambda: next(commits))
    for _ in range(2):
        record = examples.record.Record(tmp_path, {"seed": 0}, "a device")
        record.load()
        record.write()
    content = strict_json(tmp_path / "record.json")
    assert content["commit"] == "first"
    assert content["resumed_commits"] == ["second", "third"]
