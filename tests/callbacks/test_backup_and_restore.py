"""A run that was broken off and continued is the run without a break."""

import errno
import os
import shutil
import warnings

import keras
import numpy as np
import pytest
import small
from small import assert_same
from small import Interrupt
from small import StopAfter

import keras_wake as kw
from keras_wake.checkpoint import archive
from keras_wake.checkpoint import snapshot

eagerly = pytest.mark.usefixtures("eagerly")
EPOCHS = 5


def wake(schedule=None):
    network = small.network(
        lambda: [
            keras.layers.Dense(8, activation="elu"),
            # Its random state is part of a run; PyTorch's own, without seed.
            keras.layers.Dropout(0.25),
        ]
    )
    attack = kw.attacks.PGD(epsilon=0.1, steps=1)
    optimizer = keras.optimizers.SGD(0.2, momentum=0.9)
    return small.wake(network, attack, optimizer, schedule=schedule)


def fit(model, *callbacks, epochs=EPOCHS, **arguments):
    arguments = {"count": 21, "batch_size": 7, "epochs": epochs, **arguments}
    return small.fit(model, *callbacks, images=small.patterns, **arguments)


class Counter(keras.callbacks.Callback):
    """A callback of the user's, with a state of its own."""

    def __init__(self):
        super().__init__()
        self.begun = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        # `EarlyStopping` puts the best weights back when `fit` has ended.
        self.values = snapshot.take(self.model)

    def get_state(self):
        return {"begun": self.begun}

    def set_state(self, state):
        self.begun = state["begun"]


def a_run(folder, interrupted_in=None):
    """One process of a run: its model, history and callbacks."""
    model = wake(schedule=kw.schedules.DistillationRamp(1, 3))
    backup = kw.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    callbacks = {
        # First in the list, and restored last all the same.
        "backup": backup,
        "teacher": kw.EMATeacher(0.5),
        "attribution": kw.CrossClassAttribution(),
        "monitor": kw.CatastrophicOverfitMonitor(
            samples=9, every=2, action="rollback"
        ),
        "best": keras.callbacks.ModelCheckpoint(
            folder / "best.keras",
            monitor="val_robust_accuracy",
            save_best_only=True,
        ),
        "stopping": keras.callbacks.EarlyStopping(
            monitor="val_accuracy", patience=9, restore_best_weights=True
        ),
        "plateau": keras.callbacks.ReduceLROnPlateau(
            monitor="loss", mode="max", patience=1
        ),
        "written": keras.callbacks.CSVLogger(folder / "written.csv"),
        "appended": keras.callbacks.CSVLogger(
            folder / "appended.csv", append=True
        ),
        "counter": Counter(),
    }
    listed = list(callbacks.values())
    validation = small.patterns(21, seed=1)
    if interrupted_in is not None:
        # In the middle of an epoch.
        listed.append(Interrupt(interrupted_in, batch=1))
        with pytest.raises(KeyboardInterrupt):
            fit(model, *listed, validation_data=validation)
        return None
    return model, fit(model, *listed, validation_data=validation), callbacks


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run without a break and one that was broken off twice."""
    whole = tmp_path_factory.mktemp("whole")
    broken = tmp_path_factory.mktemp("broken")
    a_run(broken, interrupted_in=2)
    a_run(broken, interrupted_in=3)
    return {"broken": (broken, *a_run(broken)), "whole": (whole, *a_run(whole))}


def test_weights_optimizer_counters_and_random_states(runs):
    (_, model, _, found), (_, whole, _, expected) = runs.values()
    assert_same(found["counter"].values, expected["counter"].values)
    snapshot.put_back(model, found["counter"].values)
    assert int(model.train_steps) == 3 * EPOCHS
    # Averaged until epoch 3 begins.
    assert int(model.teacher_updates) == 3 * 2
    assert_same(whole.get_weights(), expected["stopping"].best_weights)
    assert_same(whole.get_weights(), found["stopping"].best_weights)


def test_history_is_that_of_the_whole_run(runs):
    history, expected = runs["broken"][2], runs["whole"][2]
    assert history.epoch == list(range(EPOCHS))
    assert history.history == expected.history
    assert history is runs["broken"][1].history


def test_matrices_of_all_epochs(runs):
    found, expected = (runs[n][3]["attribution"] for n in ("broken", "whole"))
    assert [entry["epoch"] for entry in found.history] == [1, 2, 3, 4, 5]
    for entry, other in zip(found.history, expected.history, strict=True):
        np.testing.assert_equal(dict(entry), dict(other))
    np.testing.assert_array_equal(found.correlation, expected.correlation)
    assert found.teacher_cas == expected.teacher_cas


def test_states_of_the_other_callbacks(runs):
    found, expected = runs["broken"][3], runs["whole"][3]
    assert found["counter"].begun == expected["counter"].begun == [*range(5)]
    monitor, other = found["monitor"], expected["monitor"]
    assert monitor.history == other.history
    assert_same(monitor._good, other._good)
    for key, names in (
        ("best", ["best"]),
        ("stopping", ["best", "wait", "best_epoch", "stopped_epoch"]),
        ("plateau", ["best", "wait", "cooldown_counter"]),
    ):
        for name in names:
            value = getattr(found[key], name)
            assert value == getattr(expected[key], name)


def test_no_row_is_lost_or_written_twice(runs):
    for name in ("written.csv", "appended.csv"):
        text = (runs["broken"][0] / name).read_bytes()
        assert text == (runs["whole"][0] / name).read_bytes()
        assert text.count(b"\n") == 1 + EPOCHS


def test_one_file_is_left_and_nothing_unfinished(runs):
    for folder in (runs["broken"][0], runs["whole"][0]):
        assert {path.name for path in folder.rglob("*")} == {
            *("backup", "backup.npz", "best.keras"),
            *("written.csv", "appended.csv"),
            # Each matrix once, beside the backup.
            "matrices",
            *(f"correlation_epoch_000{n}.npy" for n in (1, 2, 3, 4, 5)),
            *(f"teacher_correlation_epoch_000{n}.npy" for n in (1, 2, 3, 4, 5)),
        }


def test_restore_loads_the_weights_outside_fit(runs, tmp_path):
    folder, _, _, expected = runs["whole"]
    model = wake(schedule=kw.schedules.DistillationRamp(1, 3))
    assert kw.BackupAndRestore(folder / "backup").restore(model) == EPOCHS
    values = expected["counter"].values
    assert_same(snapshot.take(model), values)
    assert kw.BackupAndRestore(tmp_path / "none").restore(model) == 0
    assert_same(snapshot.take(model), values)
    assert not (tmp_path / "none").exists()


@eagerly
def test_backup_of_a_finished_run_stays_under_another_name(tmp_path):
    folder = tmp_path / "backup"

    def start(model, epochs):
        return fit(model, [kw.BackupAndRestore(folder)], epochs=epochs)

    model = wake()
    first = start(model, 2)
    before = snapshot.take(model)
    content = (folder / "finished.npz").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["finished.npz"]

    again = wake()
    with pytest.warns(UserWarning) as caught:
        found = start(again, 2)
    (message,) = (str(w.message) for w in caught if "backup" in str(w.message))
    assert "finished.npz has all its 2 epochs: nothing is left" in message
    assert f"delete the folder {folder} or choose another" in message
    assert found.history == first.history and found.epoch == [0, 1]
    assert_same(snapshot.take(again), before)
    assert (folder / "finished.npz").read_bytes() == content

    with pytest.raises(ValueError, match=r"after 2 epochs, .*: epochs=1\."):
        start(again, 1)
    assert (folder / "finished.npz").read_bytes() == content
    longer = start(again, 3)
    assert longer.epoch == [0, 1, 2]
    assert longer.history["loss"][:2] == first.history["loss"]
    assert [path.name for path in folder.iterdir()] == ["finished.npz"]
    # Keras would go on with epoch 3 here, too.
    assert fit(again, epochs=1).epoch == [0]


@eagerly
def test_run_that_a_callback_has_stopped_has_ended(tmp_path):
    fit(wake(), StopAfter(0), kw.BackupAndRestore(tmp_path), epochs=3)
    with pytest.warns(UserWarning, match="was stopped by a callback"):
        backup = kw.BackupAndRestore(tmp_path)
        log = fit(wake(), StopAfter(0), backup, epochs=3)
    assert log.epoch == [0]
    # It had no time, and has now.
    backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
    assert fit(wake(), backup, epochs=3).epoch == [0, 1, 2]


@eagerly
def test_works_in_a_callback_list(tmp_path):
    backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
    for epochs in (1, 2):
        listed = keras.callbacks.CallbackList([backup], add_history=True)
        options = {"epochs": epochs, "verbose": 0, "callbacks": listed}
        history = wake().fit(*small.data(), **options)
    assert history.epoch == [0, 1]


@eagerly
def test_run_that_was_stopped_goes_on_with_another_stopper(tmp_path):
    def start(folder, patience=1, epochs=4):
        stopping = keras.callbacks.EarlyStopping(
            monitor="kd_weight", mode="max", patience=patience or 0
        )
        # As if killed after the last epoch, before `fit` ended.
        backup = kw.BackupAndRestore(folder, delete_checkpoint=False)
        given = [stopping, backup] if patience else [backup]
        return fit(wake(), *given, epochs=epochs), stopping

    first = tmp_path / "first"
    assert start(first)[0].epoch == [0, 1]
    with pytest.warns(UserWarning, match="nothing is left to train"):
        assert start(first)[0].epoch == [0, 1]
    for patience, epochs, expected in (
        # It goes on to wait, and has waited for one epoch.
        (2, 4, [0, 1, 2]),
        (None, 4, [0, 1, 2, 3]),
        (1, 5, [0, 1, 2]),
    ):
        folder = shutil.copytree(first, tmp_path / f"{patience} {epochs}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            log, stopping = start(folder, patience, epochs)
        assert log.epoch == expected
        assert not any("nothing is left" in str(w.message) for w in caught)
        if patience:
            # In the epoch after the others.
            assert stopping.stopped_epoch == 2


def test_monitor_that_stopped_the_run_stops_it_again():
    monitor = kw.CatastrophicOverfitMonitor(action="stop")
    monitor.set_model(wake())
    state = {**monitor.get_state(), "collapsed": True}
    monitor.model.stop_training = False
    monitor.set_state(state)
    assert monitor.model.stop_training and monitor.collapsed


@eagerly
def test_what_a_kill_leaves_is_not_taken_for_a_backup(tmp_path):
    backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
    (tmp_path / "unfinished_backup.npz").write_bytes(b"half a fi")
    assert fit(wake(), backup, epochs=1).epoch == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["backup.npz"]


@eagerly
@pytest.mark.parametrize("step", ["writing", "renaming"])
def test_full_disk_keeps_the_last_backup_and_the_run(
    step, tmp_path, monkeypatch
):
    savez, replace = np.savez, os.replace
    calls = []

    def full():
        calls.append(step)
        if len(calls) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")

    def failing_savez(file, **values):
        file.write(b"half a fi")
        if step == "writing":
            full()
        file.seek(0)
        savez(file, **values)

    def failing_replace(*args):
        if step == "renaming":
            full()
        replace(*args)

    monkeypatch.setattr(np, "savez", failing_savez)
    monkeypatch.setattr(os, "replace", failing_replace)
    found = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            names = {path.name for path in tmp_path.iterdir()} - {"lock"}
            if names:
                assert names == {"backup.npz"}
                state, _ = archive.read(tmp_path / "backup.npz")
                found.append(state["epoch"])

    backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
    with pytest.warns(UserWarning) as caught:
        assert fit(wake(), Look(), backup, epochs=4).epoch == [*range(4)]
    assert found == [1, 1, 1]
    assert archive.read(tmp_path / "backup.npz")[0]["epoch"] == 4
    messages = [str(w.message) for w in caught if "backup" in str(w.message)]
    assert len(messages) == 2
    for epoch, message in zip((2, 3), messages, strict=True):
        assert f"The backup of epoch {epoch} could not be written" in message
        assert "No space left on device" in message
        assert "An earlier one stays. Training goes on" in message


def test_folder_that_cannot_be_used_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "backup"):
        with pytest.raises(OSError, match="Backups cannot be written to"):
            fit(wake(), kw.BackupAndRestore(folder), epochs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match="`backup_dir` must be the name"):
        kw.BackupAndRestore("")
    for folder in (None, 5, b"backup", ["backup"]):
        with pytest.raises(TypeError, match="`backup_dir` must be a path"):
            kw.BackupAndRestore(folder)


@eagerly
def test_state_that_cannot_be_stored_is_refused(tmp_path):
    class Odd(Counter):
        def get_state(self):
            return {"begun": object()}

    with pytest.raises(TypeError, match=r"to be backed up. Received: <object"):
        fit(wake(), Odd(), kw.BackupAndRestore(tmp_path), epochs=1)


@eagerly
def test_augmentation_goes_on_where_it_was(tmp_path):
    seen = []

    def start(epochs, first=0):
        data = kw.datasets.load(
            "digits", limit=30, batch_size=15, initial_epoch=first
        )
        cnn = kw.models.SmallCNN(10, (8, 8, 1), widths=(4,), strides=(2,))
        model = small.wake(cnn)
        backup = kw.BackupAndRestore(tmp_path, delete_checkpoint=False)
        watch = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: seen.append(
                (epoch, model.session.data[0].epoch_counter.epoch)
            )
        )
        options = {"epochs": epochs, "shuffle": False, "verbose": 0}
        model.fit(data.train, callbacks=[backup, watch], **options)

    start(2, first=5)
    start(3)
    assert seen == [(0, 5), (1, 6), (2, 7)]


def test_other_models_are_refused(tmp_path):
    model = small.network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match=r"keras\.callbacks\.BackupAndRestore"):
        fit(model, kw.BackupAndRestore(tmp_path))


@pytest.mark.parametrize("name", ["wake.keras", "wake.weights.h5"])
def test_saving_never_spoils_the_file_that_is_there(
    name, tmp_path, monkeypatch
):
    model, path = wake(), tmp_path / name
    save = model.save if name.endswith("keras") else model.save_weights
    save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]
    link = tmp_path / f"link_{name}"
    link.symlink_to(path)
    model.kd_weight.assign(0.5)
    save(link)
    assert link.is_symlink() and path.read_bytes() != before
    model.kd_weight.assign(0.0)
    model.load_weights(path)
    assert float(model.kd_weight) == 0.5
