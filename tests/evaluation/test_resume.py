"""An evaluation that is killed goes on, and ends as one that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from linear_case import BestStep
from linear_case import data
from linear_case import linear_model
from linear_case import Noise

import keras_wake
from keras_wake import evaluation
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.checkpoint import archive
from keras_wake.evaluation import state as progress_file
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.evaluate import Run

pytestmark = pytest.mark.usefixtures("eagerly")

ATTACKS = [BestStep(epsilon=0.03), BestStep(epsilon=0.03)]
OPTIONS = {"attacks": ATTACKS, "batch_size": 8, "verbose": 0}


@pytest.fixture(scope="module")
def model():
    return linear_model()


def without_time(report):
    found = report.to_dict()
    for entry in (found, *found["attacks"]):
        entry.pop("seconds")
    found.pop("date")
    return found


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_after(monkeypatch, writes):
    """Has the state be written so many times, and then end."""
    write, left = progress_file.StateFile.write, [writes]

    def limited(self, progress, images=None):
        if not left[0]:
            raise Stop
        left[0] -= 1
        write(self, progress, images)

    monkeypatch.setattr(progress_file.StateFile, "write", limited)


def test_stopped_anywhere_it_ends_the_same(model, tmp_path, monkeypatch):
    samples = data(model, count=40, wrong=4)
    whole = evaluation.autoattack(model, samples, return_images=True, **OPTIONS)
    path = tmp_path / "folder" / "state.npz"
    options = {**OPTIONS, "state": path, "return_images": True}
    stops = 0
    while True:
        with monkeypatch.context() as patch:
            stop_after(patch, writes=3)
            try:
                report = evaluation.autoattack(model, samples, **options)
                break
            except Stop:
                stops += 1
        # The size of the batches may change.
        options["batch_size"] = 5
    assert stops > 3
    options["batch_size"] = 8
    report = evaluation.autoattack(model, samples, **options)
    assert without_time(report) == without_time(whole)
    np.testing.assert_array_equal(report.fallen_to, whole.fallen_to)
    np.testing.assert_allclose(report.images, whole.images, atol=1e-6)
    assert [p.name for p in sorted(path.parent.iterdir())] == [
        "state.npz",
        "state.npz.images",
    ]


def test_finished_state_returns_at_once(model, tmp_path, monkeypatch):
    options = {**OPTIONS, "state": tmp_path / "state.npz"}
    first = evaluation.autoattack(model, data(model), **options)

    def fails(*args, **kwargs):
        raise AssertionError("attacked again")

    monkeypatch.setattr(CompiledClassifier, "attack", fails)
    again = evaluation.autoattack(model, data(model), **options)
    assert without_time(again) == without_time(first)
    assert again.seconds == first.seconds
    # Shuffled data are the same data.
    x, y = data(model)
    order = np.random.default_rng(0).permutation(len(x))
    shuffled = evaluation.autoattack(model, (x[order], y[order]), **options)
    np.testing.assert_array_equal(shuffled.fallen_to, first.fallen_to[order])


def test_images_that_do_not_belong_to_the_state(model, tmp_path):
    path = tmp_path / "state.npz"
    options = {**OPTIONS, "state": path, "return_images": True}
    first = evaluation.autoattack(model, data(model), **options)
    images = tmp_path / "state.npz.images"
    content = images.read_bytes()
    # What a kill has left behind the counted images is cut off.
    images.write_bytes(content + b"half an image that no state counts")
    again = evaluation.autoattack(model, data(model), **options)
    np.testing.assert_array_equal(again.images, first.images)
    assert images.read_bytes() == content
    for damaged in (content[:10], bytes(len(content))):
        images.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged, or .* Delete both"):
            evaluation.autoattack(model, data(model), **options)


def around(model, function):
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, function(model, inputs))


def other_image(x):
    x = x.copy()
    x[3, 0, 0, 0] = 0.5
    return x


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": lambda _: linear_model(seed=5)}, "the weights of the cl"),
        (
            {"model": lambda m: around(m, lambda m, x: 2 * m(x))},
            "the layers of the classifier, or their",
        ),
        (
            # It changes the output by less than what other machines do.
            {
                "model": lambda m: around(
                    m, lambda m, x: m(keras.layers.Rescaling(1 + 1e-7)(x))
                )
            },
            "the layers of the classifier, or their",
        ),
        ({"x": other_image}, "the images or labels. Pass another"),
        ({"y": lambda y: (y + 1) % 3}, "the images or labels. Pass"),
        ({"seed": 4}, r"`seed` \(0 in the file, 4 in this call\)."),
        (
            {"attacks": [BestStep(epsilon=0.04)]},
            r"`attacks` \(.*0.03.* in the file, .*0.04",
        ),
    ],
)
def test_another_evaluation_is_refused(model, tmp_path, changes, message):
    options = {**OPTIONS, "state": tmp_path / "state.npz"}
    case = {"model": model, "x": data(model)[0], "y": data(model)[1]}
    evaluation.autoattack(model, (case["x"], case["y"]), **options)
    before = (tmp_path / "state.npz").read_bytes()
    for name, change in changes.items():
        if name in case:
            case[name] = change(case[name])
        else:
            options[name] = change
    with pytest.raises(ValueError, match=f"differ: {message}"):
        evaluation.autoattack(case["model"], (case["x"], case["y"]), **options)
    assert (tmp_path / "state.npz").read_bytes() == before


def test_a_random_classifier_goes_on_as_well(model, tmp_path):
    def noisy(size):
        inputs = keras.Input((4, 4, 1))
        return keras.Model(inputs, Noise(size)(model(inputs)))

    options = {**OPTIONS, "state": tmp_path / "state.npz", "checks": False}
    options["attacks"] = [PGD(epsilon=0.03, steps=1)]
    samples = data(model, count=20, wrong=2)
    first = evaluation.autoattack(noisy(0.5), samples, **options)
    again = evaluation.autoattack(noisy(0.5), samples, **options)
    np.testing.assert_array_equal(again.fallen_to, first.fallen_to)
    for other in (noisy(0.4), model):
        with pytest.raises(ValueError, match="differ: the layers of the"):
            evaluation.autoattack(other, samples, **options)


def test_names_of_layers_do_not_matter(model, tmp_path):
    options = {**OPTIONS, "state": tmp_path / "state.npz"}
    first = evaluation.autoattack(model, data(model), **options)
    for _ in range(3):
        other = linear_model()
    assert other.layers[-1].name != model.layers[-1].name
    again = evaluation.autoattack(other, data(model), **options)
    assert again.to_dict()["attacks"] == first.to_dict()["attacks"]


def test_small_outputs_tell_networks_apart_as_well(tmp_path):
    def small(sign):
        network = linear_model(scale=1e-4)
        call = network.layers[-1].call
        network.layers[-1].call = lambda inputs, **more: sign * call(inputs)
        return network

    options = {**OPTIONS, "state": tmp_path / "state.npz"}
    samples = data(small(1))
    with pytest.warns(evaluation.ReliabilityWarning, match="equal-losses"):
        evaluation.autoattack(small(1), samples, **options)
    with pytest.raises(ValueError, match="what the classifier returns"):
        evaluation.autoattack(small(-1), samples, **options)


def test_counts_that_were_edited_are_refused(model, tmp_path):
    path = tmp_path / "state.npz"
    evaluation.autoattack(model, data(model), state=path, **OPTIONS)
    state, _ = archive.read(path)
    for changes in (
        {"attack": -5},
        {"position": 1.5},
        {"attacked": []},
        {"order": [10**6]},
        {"fallen_to": 3},
        {"extra": 1},
    ):
        progress = {**state["progress"], **changes}
        archive.write(path, {**state, "progress": progress}, [])
        with pytest.raises(ValueError, match=r"contradict each .* Delete it"):
            evaluation.autoattack(model, data(model), state=path, **OPTIONS)


def test_two_evaluations_of_one_state_are_refused(model, tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    run = Run.attack_all
    refused = []

    def nested(self, verbose):
        monkeypatch.setattr(Run, "attack_all", run)
        with pytest.raises(ValueError, match="in use by another evaluation"):
            evaluation.autoattack(model, data(model), state=path, **OPTIONS)
        refused.append(True)
        run(self, verbose)

    monkeypatch.setattr(Run, "attack_all", nested)
    evaluation.autoattack(model, data(model), state=path, **OPTIONS)
    assert refused and [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_a_path_that_cannot_be_written_is_named(model, tmp_path):
    with pytest.raises(IsADirectoryError):
        evaluation.autoattack(model, data(model), state=tmp_path, **OPTIONS)
    (tmp_path / "a_file").write_text("no folder")
    path = tmp_path / "a_file" / "state.npz"
    with pytest.raises(OSError, match=r"cannot be written to .*state.npz"):
        evaluation.autoattack(model, data(model), state=path, **OPTIONS)


def test_what_is_no_state_is_refused(model, tmp_path):
    path = tmp_path / "state.npz"
    path.write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=r"state.npz cannot be read.*Delete it"
    ):
        evaluation.autoattack(model, data(model), state=path, **OPTIONS)
    archive.write(path, {"epoch": 3}, [])
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        evaluation.autoattack(model, data(model), state=path, **OPTIONS)
    with pytest.raises(TypeError, match=r"`state` must be a path.*state=3"):
        evaluation.autoattack(model, data(model), state=3, **OPTIONS)


SCRIPT = """
import sys
import time

sys.path.insert(0, sys.argv[2])
import linear_case
from keras_wake import evaluation
from keras_wake.evaluation.compiled_classifier import CompiledClassifier

run = CompiledClassifier.attack
def slowly(self, *args, **kwargs):
    time.sleep(0.05)
    return run(self, *args, **kwargs)
CompiledClassifier.attack = slowly

model = linear_case.linear_model()
attacks = [linear_case.BestStep(epsilon=0.03) for _ in range(2)]
print("begins", flush=True)
report = evaluation.autoattack(
    model, linear_case.data(model), attacks=attacks, batch_size=4,
    state=sys.argv[1], verbose=0, return_images=True,
)
print(report.to_json(), flush=True)
"""


def start(path):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT,
            path,
            str(pathlib.Path(__file__).parent),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": str(pathlib.Path(keras_wake.__file__).parents[1]),
        },
    )


@pytest.mark.slow
def test_killed_process_goes_on(tmp_path):
    path = tmp_path / "state.npz"
    process = start(tmp_path / "whole.npz")
    whole = json.loads(process.communicate(timeout=300)[0].splitlines()[-1])
    seen = []
    for kill in range(4):
        process = start(path)
        assert process.stdout.readline() == "begins\n"
        while len(seen) <= kill and process.poll() is None:
            done = finished_batches(path)
            if done > (seen[-1] if seen else 0):
                seen.append(done)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert seen == sorted(set(seen)) and len(seen) == 4
    process = start(path)
    report = json.loads(process.communicate(timeout=300)[0].splitlines()[-1])
    for found in (report, whole):
        for entry in (found, *found["attacks"]):
            entry.pop("seconds")
        found.pop("date")
    assert report == whole


def finished_batches(path):
    """A number that grows with the progress in a state file."""
    if not path.exists():
        return 0
    state, _ = archive.read(path)
    return sum(state["progress"]["passes"])


def test_a_state_of_the_stretched_square_says_so():
    same = {"layers": [], "graph": "g", "weights": "w", "data": "d"}
    new = repr(Square(epsilon=0.1))
    old = new.replace(", stretch_schedule=False", "")
    assert old != new
    found, wanted = (
        {**same, "outputs": None, "settings": {"attacks": [f"Square: {text}"]}}
        for text in (old, new)
    )
    words = " ".join(progress_file.differences(found, wanted))
    assert "earlier versions scaled to the number of queries" in words


def test_states_tell_other_operations_apart():
    def classifier(last):
        inputs = keras.Input((2,))
        return keras.Model(inputs, getattr(keras.ops, last)(inputs))

    found, same, other = (
        progress_file.fingerprint(classifier(last), "d", {}, None)
        for last in ("relu", "relu", "tanh")
    )
    assert progress_file.differences(found, same) == []
    words = progress_file.differences(found, other)
    assert words == ["the operations of the classifier, or their inputs"]
    # States of earlier versions have no graph.
    del found["graph"]
    assert progress_file.differences(found, other) == []
