"""Starting the scripts of this folder, and comparing what they found."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

import keras_wake

HERE = pathlib.Path(__file__).parent


def start(script, *arguments, command=(sys.executable,), **environment):
    """Starts a script of this folder; its output goes to a pipe."""
    return subprocess.Popen(
        [*command, str(HERE / script), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(pathlib.Path(keras_wake.__file__).parents[1]),
            # On a CPU, oneDNN's convolutions fail on a share without images.
            "TF_ENABLE_ONEDNN_OPTS": "0",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes, timeout=600):
    """Waits for processes; returns their exit status and output."""
    try:
        outputs = [p.communicate(timeout=timeout)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, o) for p, o in zip(processes, outputs, strict=True)]


def succeed(*processes):
    """Waits for processes that must end without an error."""
    for status, output in finish(*processes):
        assert status == 0, output[-3000:]


def results_of(script, tmp_path_factory, *arguments):
    """What a script has written that took a path and other arguments."""
    path = tmp_path_factory.mktemp("results") / "results.json"
    succeed(start(script, path, *arguments))
    return json.loads(path.read_text())


def free_addresses(count):
    """So many addresses of this host on which nothing listens."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def assert_same(one, two, tolerance):
    """Two results of `training_case.train` agree in all but their checks."""
    for key in ("history", "evaluated"):
        assert set(one[key]) == set(two[key])
        for name, values in one[key].items():
            np.testing.assert_allclose(
                values, two[key][name], rtol=0, atol=tolerance, err_msg=name
            )
    for key in ("student", "teacher", "correlation"):
        for a, b in zip(one[key], two[key], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    assert (one["steps"], one["updates"]) == (two["steps"], two["updates"])


def assert_same_averages(one, two, tolerance):
    """Two results of `training_case.train_averages` agree."""
    assert set(one) == set(two) == {"at", "awp"}
    for objective, expected in one.items():
        assert_same(expected, two[objective], tolerance)
        assert len(expected["history"]["multi_step_accuracy"]) == 3
        # Statistics that were estimated anew are others than the student's.
        gaps = map(np.subtract, expected["student"], expected["teacher"])
        assert max(np.abs(gap).max() for gap in gaps) > 1e-3
