"""The examples: what a run writes, and which flags it refuses."""

import csv
import os
import pathlib
import re
from unittest import mock

import keras
import numpy as np
import pytest
from PIL import Image
from run_files import save_images
from run_files import strict_json
from small import output_of

import keras_wake as kw

ROOT = pathlib.Path(__file__).parents[2]
NETWORKS = [(e, n) for e in ("best", "last") for n in ("student", "teacher")]


def test_record_holds_settings_commit_and_every_epoch(finished_run, examples):
    record = strict_json(finished_run.run_dir / "record.json")
    # The ramp begins at half of three epochs, and ends at 55 %.
    expected = {"dataset": "digits", "epsilon": 0.15, "step_size": 0.15 / 4}
    expected |= {"start_epoch": 1, "end_epoch": 2}
    # Settings of other methods are none of this run.
    others = ("beta", "gamma", "patience", "swa_start", "robust_weight")
    expected |= dict.fromkeys(others)
    assert expected.items() <= record["settings"].items()
    assert record["found_ramp"] is None
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
    x, y = kw.datasets.load("digits", test_limit=30, seed=0).arrays("test")
    right = np.mean(np.argmax(network.predict(x, verbose=0), axis=1) == y)
    rows = {(r["epoch"], r["network"]): r for r in finished_run.record["table"]}
    row = rows["last", "teacher"]
    assert row["clean"] == pytest.approx(right, abs=1e-6)
    # The other one is the teacher at the best epoch.
    best = keras.models.load_model(finished_run.run_dir / "best.keras")
    kept = keras.models.load_model(
        finished_run.run_dir / "best_val_teacher_robust_accuracy.keras"
    )
    assert not isinstance(best, kw.WakeModel)
    for weight, other in zip(best.weights, kept.teacher.weights, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_prints_the_table(finished_run):
    table = finished_run.record["table"]
    assert [(row["epoch"], row["network"]) for row in table] == NETWORKS
    printed = finished_run.printed
    assert "60 training, 30 validation and 30 test images" in printed
    assert "1 replica;" in printed
    assert f"The run is in {finished_run.run_dir}: robust.keras" in printed
    assert "never began" not in printed
    assert re.search(r"^epoch +network +clean +robust +CAS$", printed, re.M)
    for row in table:
        shares = f"{row['clean']:.1%} +{row['robust']:.1%} +{row['cas']:.1f}"
        line = f"{row['epoch']} +{row['network']} +{shares}"
        assert re.search(line, printed)


def test_folder_of_images_without_a_teacher(start, tmp_path, capsys):
    save_images(tmp_path / "data", 10, 32, train=4, test=1)
    # Later options win. The best epoch is the only one that is validated.
    start(
        tmp_path / "run",
        *(f"--data-dir={tmp_path / 'data'}", "--method=at", "--model=small"),
        *("--limit=20", "--validation=10", "--test-limit=10"),
        *("--epochs=2", "--eval-every=2"),
        example="cifar10",
    )
    record = strict_json(tmp_path / "run" / "record.json")
    assert record["settings"]["epsilon"] == 8 / 255
    assert "data_dir" not in record["settings"]
    assert "val_accuracy" not in record["epochs"][0]
    assert "val_robust_accuracy" in record["epochs"][1]
    found = [(row["epoch"], row["network"]) for row in record["table"]]
    assert found == [("best", "student"), ("last", "student")]
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


@pytest.mark.slow
def test_trains_on_several_devices(small_setting, tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    flags = [*small_setting, "--method=at", "--epochs=2", "--threads=4"]
    printed = output_of(
        *("-c", REPLICAS, *flags, f"--run-dir={tmp_path}"),
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "2 replicas;" in printed
    # Two operations at a time, each with half of the threads.
    assert "One operation: 2\nOperations: 2\n" in printed
    record = strict_json(tmp_path / "record.json")
    assert len(record["epochs"]) == 2
    assert [row["epoch"] for row in record["table"]] == ["best", "last"]
    assert (tmp_path / "adversarial_examples.png").exists()


def test_one_device_needs_no_strategy(examples):
    import tensorflow as tf

    with examples.devices.scope(examples.devices.start(0)) as replicas:
        assert not tf.distribute.has_strategy()
    assert replicas == 1


def test_help_explains_flags_and_methods(examples):
    printed = output_of(ROOT / "examples" / "cifar10.py", "--help", timeout=60)
    assert re.search(r"^ *python examples/cifar10.py$", printed, re.M)
    for flag in ("--method", "--resume", "--data-dir", "--limit", "--model"):
        assert flag in printed
    for name, method in examples.methods.METHODS.items():
        assert name in printed and method.summary in printed
    assert "(default: None)" not in printed


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
        ("--data-dir=elsewhere", "only for folders of images"),
        ("--matrix-epochs 2 4", "(--eval-every 1, 3 epochs). Received: [4]"),
        ("--latest-start=0", "--latest-start: must be a whole number of at"),
    ],
)
def test_bad_arguments_are_refused(refused, tmp_path, arguments, message):
    printed = refused(tmp_path / "run", *arguments.split())
    assert message in printed
    # The message, without the usage of all flags.
    assert ": error: " in printed and "usage:" not in printed
    # A second try is not told that there is a run.
    assert not (tmp_path / "run" / "record.json").exists()


def test_missing_data_folder_is_refused(refused, tmp_path):
    flag = f"--data-dir={tmp_path / 'nowhere'}"
    message = refused(tmp_path / "run", flag, example="cifar10")
    assert "must be a folder that exists" in message


def test_folder_that_cannot_be_written_is_refused_first(
    examples, refused, tmp_path, monkeypatch
):
    too_late = mock.Mock(side_effect=AssertionError("came too late"))
    monkeypatch.setattr(examples.training, "load_data", too_late)
    (tmp_path / "file").touch()
    message = refused(tmp_path / "file" / "run")
    assert f"--run-dir {tmp_path / 'file' / 'run'} cannot be written" in message


def test_learning_rate_drops_with_an_epoch(examples):
    for epochs, steps, expected in (
        # Divided after three and after five epochs.
        (7, 5, [0.1] * 15 + [0.01] * 10 + [0.001] * 10),
        # Both drops come at once.
        (2, 3, [0.1] * 3 + [0.001] * 3),
    ):
        rate = examples.training.learning_rate(0.1, epochs, steps)
        found = [float(rate(step)) for step in range(epochs * steps)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
