"""An example in two PyTorch processes, started by `torchrun`."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("torch")
# Processes of their own, which compile nothing but import all.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = str(ROOT / "examples" / "digits.py")
# Notes down what each process writes below RUN_DIR.
WATCH = """
import os, sys
log = open(os.environ["WRITES"] + os.environ.get("RANK", ""), "a")
def watch(event, arguments):
    writes = event in ("os.mkdir", "os.rename", "os.remove")
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and os.environ["RUN_DIR"] in str(arguments[0]):
        log.write(f"{event} {arguments[0]}\\n")
        log.flush()
sys.addaudithook(watch)
"""


def run(command, folder, **environment):
    watch = folder / "watch"
    watch.mkdir(exist_ok=True)
    (watch / "sitecustomize.py").write_text(WATCH)
    return subprocess.run(
        command,
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "PYTHONPATH": os.pathsep.join([str(watch), str(ROOT)]),
            "RUN_DIR": str(folder / "run"),
            "WRITES": str(folder / "writes_"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_chief_alone_writes_and_a_run_resumes(small_setting, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", SCRIPT, *small_setting]
    torchrun += [f"--run-dir={tmp_path / 'run'}"]
    done = run(torchrun, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 replicas") == 1
    assert done.stdout.count("The run is in") == 1
    written = (tmp_path / "writes_0").read_text()
    for name in ("record.json", "backup", "best.keras", "robust.keras"):
        assert name in written
    assert (tmp_path / "writes_1").read_text() == ""
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert len(record["epochs"]) == 3
    assert {row["network"] for row in record["table"]} == {"student", "teacher"}
    network = keras.models.load_model(tmp_path / "run" / "robust.keras")
    assert np.isfinite(network.predict(np.zeros((2, 8, 8, 1)), verbose=0)).all()
    again = run([*torchrun, "--resume"], tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    there = json.loads((tmp_path / "run" / "record.json").read_text())
    assert there["epochs"] == record["epochs"]
    assert there["table"] == record["table"]


def test_a_missing_address_is_named(small_setting, tmp_path):
    command = [sys.executable, SCRIPT, *small_setting]
    command += [f"--run-dir={tmp_path / 'run'}"]
    one_of_two = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    without_port = {**one_of_two, "MASTER_ADDR": "127.0.0.1"}
    done = run(command, tmp_path, **without_port)
    assert done.returncode == 2
    assert "MASTER_PORT expected, but not set" in done.stderr
    elsewhere = run(command, tmp_path, KERAS_BACKEND="tensorflow", **one_of_two)
    assert elsewhere.returncode == 2
    assert "one of several processes (RANK)" in elsewhere.stderr
    assert not (tmp_path / "run" / "record.json").exists()
