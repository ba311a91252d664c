"""An evaluation that is killed goes on, and ends as one that was not."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from linear_case import BestStep
from linear_case import data
from linear_case import linear_model
from linear_case import Noise
from linear_case import with_function

import keras_wake
from keras_wake import evaluation
from keras_wake.attacks import PGD
from keras_wake.attacks import Square
from keras_wake.checkpoint import archive
from keras_wake.evaluation import state as progress_file
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.evaluate import Run

pytestmark = pytest.mark.usefixtures("eagerly")


def run(classifier, samples, path, **options):
    attacks = [BestStep(epsilon=0.03), BestStep(epsilon=0.03)]
    options = {"attacks": attacks, "batch_size": 8, "verbose": 0, **options}
    return evaluation.autoattack(classifier, samples, state=path, **options)


@pytest.fixture(scope="module")
def samples(model):
    return data(model)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.npz"


def without_time(found):
    """The dictionary of a report without what differs between two runs."""
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
    whole = run(model, samples, None, return_images=True)
    path = tmp_path / "folder" / "state.npz"
    stops, options = 0, {"return_images": True}
    while True:
        with monkeypatch.context() as patch:
            stop_after(patch, writes=3)
            try:
                run(model, samples, path, **options)
                break
            except Stop:
                stops += 1
        # The size of the batches may change.
        options["batch_size"] = 5
    assert stops > 3
    report = run(model, samples, path, return_images=True)
    assert without_time(report.to_dict()) == without_time(whole.to_dict())
    np.testing.assert_array_equal(report.fallen_to, whole.fallen_to)
    np.testing.assert_allclose(report.images, whole.images, atol=1e-6)
    names = {p.name for p in path.parent.iterdir()}
    assert names == {"state.npz", "state.npz.images"}


def test_finished_state_returns_at_once(model, samples, path, monkeypatch):
    first = run(model, samples, path)

    def fails(*args, **kwargs):
        raise AssertionError("attacked again")

    monkeypatch.setattr(CompiledClassifier, "attack", fails)
    again = run(model, samples, path)
    assert again.seconds == first.seconds
    assert without_time(again.to_dict()) == without_time(first.to_dict())
    # Shuffled data are the same data.
    x, y = samples
    order = np.random.default_rng(0).permutation(len(x))
    shuffled = run(model, (x[order], y[order]), path)
    np.testing.assert_array_equal(shuffled.fallen_to, first.fallen_to[order])
    # The names of layers do not matter.
    other = linear_model()
    assert other.layers[-1].name != model.layers[-1].name
    renamed = run(other, samples, path).to_dict()
    assert renamed["attacks"] == first.to_dict()["attacks"]


def test_images_that_do_not_belong_to_the_state(model, samples, path):
    first = run(model, samples, path, return_images=True)
    images = path.with_name("state.npz.images")
    content = images.read_bytes()
    # What a kill has left behind the counted images is cut off.
    images.write_bytes(content + b"half an image that no state counts")
    again = run(model, samples, path, return_images=True)
    np.testing.assert_array_equal(again.images, first.images)
    assert images.read_bytes() == content
    for damaged in (content[:10], bytes(len(content))):
        images.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged, or .* Delete both"):
            run(model, samples, path, return_images=True)


def scaled(model):
    """Its output changes by less than from one machine to another."""
    return with_function(lambda x: model(keras.layers.Rescaling(1 + 1e-7)(x)))


def other_image(samples):
    x, y = samples[0].copy(), samples[1]
    x[3, 0, 0, 0] = 0.5
    return x, y


LAYERS = "the layers of the classifier, or their"
DATA = "the images or labels. Pass another"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"classifier": lambda _: linear_model(seed=5)}, "the weights of the"),
        ({"classifier": lambda m: with_function(lambda x: 2 * m(x))}, LAYERS),
        ({"classifier": scaled}, LAYERS),
        ({"samples": other_image}, DATA),
        ({"samples": lambda s: (s[0], (s[1] + 1) % 3)}, DATA),
        ({"seed": 4}, r"`seed` \(0 in the file, 4 in this call\)."),
        (
            {"attacks": [BestStep(epsilon=0.04)]},
            r"`attacks` \(.*0.03.* in the file, .*0.04",
        ),
    ],
)
def test_another_evaluation_is_refused(model, samples, path, changes, message):
    run(model, samples, path)
    before = path.read_bytes()
    call = {"classifier": model, "samples": samples}
    for name, change in changes.items():
        call[name] = change(call[name]) if name in call else change
    with pytest.raises(ValueError, match=f"differ: {message}"):
        run(path=path, **call)
    assert path.read_bytes() == before


def test_a_random_classifier_goes_on_as_well(model, path):
    def noisy(size):
        return with_function(lambda x: Noise(size)(model(x)))

    options = {"checks": False, "attacks": [PGD(epsilon=0.03, steps=1)]}
    samples = data(model, count=20, wrong=2)
    first = run(noisy(0.5), samples, path, **options)
    again = run(noisy(0.5), samples, path, **options)
    np.testing.assert_array_equal(again.fallen_to, first.fallen_to)
    for other in (noisy(0.4), model):
        with pytest.raises(ValueError, match="differ: the layers of the"):
            run(other, samples, path, **options)


def test_small_outputs_tell_networks_apart_as_well(path):
    def small(sign):
        network = linear_model(scale=1e-4)
        call = network.layers[-1].call
        network.layers[-1].call = lambda inputs, **more: sign * call(inputs)
        return network

    samples = data(small(1))
    with pytest.warns(evaluation.ReliabilityWarning, match="equal-losses"):
        run(small(1), samples, path)
    with pytest.raises(ValueError, match="what the classifier returns"):
        run(small(-1), samples, path)


def test_what_is_no_state_of_this_evaluation_is_refused(model, samples, path):
    run(model, samples, path)
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
            run(model, samples, path)
    archive.write(path, {"epoch": 3}, [])
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        run(model, samples, path)
    path.write_bytes(b"something else")
    unreadable = r"state.npz cannot be read.*Delete it"
    with pytest.raises(ValueError, match=unreadable):
        run(model, samples, path)


def test_two_evaluations_of_one_state_are_refused(
    model, samples, path, monkeypatch
):
    attack_all = Run.attack_all
    refused = []

    def nested(self, verbose):
        monkeypatch.setattr(Run, "attack_all", attack_all)
        with pytest.raises(ValueError, match="in use by another evaluation"):
            run(model, samples, path)
        refused.append(True)
        attack_all(self, verbose)

    monkeypatch.setattr(Run, "attack_all", nested)
    run(model, samples, path)
    assert refused and list(path.parent.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_named(model, samples, tmp_path):
    with pytest.raises(IsADirectoryError):
        run(model, samples, tmp_path)
    (tmp_path / "a_file").write_text("no folder")
    with pytest.raises(OSError, match=r"cannot be written to .*state.npz"):
        run(model, samples, tmp_path / "a_file" / "state.npz")


SCRIPT = """
import sys
import time

import linear_case
from keras_wake.evaluation.compiled_classifier import CompiledClassifier

run = CompiledClassifier.attack
def slowly(self, *args, **kwargs):
    time.sleep(0.05)
    return run(self, *args, **kwargs)
CompiledClassifier.attack = slowly

model = linear_case.linear_model()
attacks = [linear_case.BestStep(epsilon=0.03) for _ in range(2)]
print("begins", flush=True)
report = linear_case.report_of(
    model, linear_case.data(model), *attacks, batch_size=4,
    state=sys.argv[1], checks=True, return_images=True,
)
print(report.to_json(), flush=True)
"""


def start(path):
    root = pathlib.Path(keras_wake.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, path],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": f"{root}{os.pathsep}{pathlib.Path(__file__).parent}",
        },
    )


def report_at_the_end(path):
    output, _ = start(path).communicate(timeout=300)
    return without_time(json.loads(output.splitlines()[-1]))


def finished_batches(path):
    """A number that grows with the progress in a state file."""
    if not path.exists():
        return 0
    state, _ = archive.read(path)
    return sum(state["progress"]["passes"])


@pytest.mark.slow
def test_killed_process_goes_on(path):
    seen = []
    for kill in range(4):
        process = start(path)
        assert process.stdout.readline() == "begins\n"
        while len(seen) <= kill and process.poll() is None:
            done = finished_batches(path)
            if done > (seen[-1] if seen else 0):
                seen.append(done)
        process.kill()
        process.communicate()
    assert seen == sorted(set(seen)) and len(seen) == 4
    whole = report_at_the_end(path.with_name("whole.npz"))
    assert report_at_the_end(path) == whole


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
    found, same, other = (
        progress_file.fingerprint(with_function(operation), "d", {}, None)
        for operation in (ops.relu, ops.relu, ops.tanh)
    )
    assert progress_file.differences(found, same) == []
    words = progress_file.differences(found, other)
    assert words == ["the operations of the classifier, or their inputs"]
    # States of earlier versions have no graph.
    del found["graph"]
    assert progress_file.differences(found, other) == []
