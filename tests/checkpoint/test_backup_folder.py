"""The folder of a backup: one run at a time, rows once, and damage."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest
import small
from small import Interrupt

import keras_wake as kw
from keras_wake.checkpoint import archive


@pytest.fixture(scope="module", autouse=True)
def module_eagerly(without_compiling):
    with without_compiling():
        yield


def fit(folder, *callbacks, epochs=2):
    backup = kw.BackupAndRestore(folder)
    return small.fit(
        *(small.wake(), *callbacks, backup),
        count=6,
        batch_size=3,
        epochs=epochs,
    )


def killed(folder, *callbacks, after):
    """What a kill leaves: rows are written, and the backup is not."""
    with pytest.raises(KeyboardInterrupt):
        fit(folder, *callbacks, Interrupt(after))


def logger(path):
    return keras.callbacks.CSVLogger(path, append=True)


def epochs_in(path):
    return [line.split(",")[0] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("older", ["", "epoch,loss\n0,2.5\n1,2.25\n"])
def test_row_of_a_run_that_was_killed_before_its_first_backup(tmp_path, older):
    log, folder = tmp_path / "log.csv", tmp_path / "backup"
    if older:
        log.write_text(older)
    for _ in range(2):
        killed(folder, logger(log), after=0)
        assert os.listdir(folder) == ["lock"]
    fit(folder, logger(log))
    assert log.read_text().startswith(older)
    rows = ["epoch", "0", "1"] if older else ["epoch"]
    assert epochs_in(log) == [*rows, "0", "1"]
    assert os.listdir(folder) == ["finished.npz"]


def test_rows_of_another_run_stay(tmp_path):
    log, folder = tmp_path / "log.csv", tmp_path / "backup"
    killed(folder, logger(log), after=0)
    fit(tmp_path / "other", logger(log))
    with pytest.warns(UserWarning, match="rows that may belong to another"):
        fit(folder, logger(log))
    rows = ["epoch", "0", "0", "1", "0", "1"]
    assert epochs_in(log) == rows
    # Nor are they lost when the finished run is started again.
    fit(tmp_path / "third", logger(log))
    with pytest.warns(UserWarning, match="rows that may belong to another"):
        fit(folder, logger(log), epochs=3)
    assert epochs_in(log) == [*rows, "0", "1", "2"]


def test_log_with_a_line_of_the_user_is_kept(tmp_path):
    log, folder = tmp_path / "log.csv", tmp_path / "backup"
    killed(folder, logger(log), after=1)
    before = "# my notes\n" + log.read_text()
    log.write_text(before)
    with pytest.warns(UserWarning, match=r"log\.csv has rows that may"):
        fit(folder, logger(log))
    assert log.read_text().startswith(before)
    assert epochs_in(log) == ["# my notes", "epoch", "0", "1", "1"]


def test_two_backups_of_one_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"takes one.*Received: 2, with .*b'"):
        fit(tmp_path / "a", kw.BackupAndRestore(tmp_path / "b"))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    inner = []

    class Nested(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            with pytest.raises(ValueError, match="is in use by another `fit`"):
                fit(tmp_path / "link", epochs=1)
            inner.append(epoch)

    (tmp_path / "backup").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "backup")
    fit(tmp_path / "backup", Nested())
    assert inner == [0, 1]
    assert os.listdir(tmp_path / "backup") == ["finished.npz"]
    # Given back also where `fit` has raised.
    killed(tmp_path / "other", after=1)
    assert os.listdir(tmp_path / "other") == ["backup.npz"]
    fit(tmp_path / "other")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The arrays of a backup."""
    folder = tmp_path_factory.mktemp("finished")
    start(folder)
    with np.load(folder / "finished.npz") as file:
        return dict(file)


def start(folder):
    stopping = keras.callbacks.EarlyStopping(monitor="loss", patience=9)
    fit(folder, stopping, epochs=1)


def restart(folder, arrays):
    np.savez(folder / "finished.npz", **arrays)
    start(folder)


def edited(arrays, *place, value):
    """The same backup with another value at one place of its state."""
    state = json.loads(arrays["state"].tobytes())
    part = state
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    content = np.frombuffer(json.dumps(state).encode(), "uint8")
    return {**arrays, "state": content}


@pytest.mark.parametrize(
    "name, value",
    [
        *(("epoch", value) for value in (-5, 0, "3", 1.5, None, True)),
        *(("epochs", "x"), ("stopped", -5), ("settings", "x")),
        *(("settings", [1]), ("callbacks", None)),
    ],
)
def test_edited_entry_is_refused(finished, tmp_path, name, value):
    message = f"no backup of a run: its `{name}` is .*Delete it to"
    with pytest.raises(ValueError, match=message):
        restart(tmp_path, edited(finished, name, value=value))


@pytest.mark.parametrize(
    "place, value",
    [
        (("record", "layers", 0, "given"), 1e30),
        (("record", "layers", 0, "more"), "x"),
        (("record", "layers", 0, "type"), []),
        (("record", "graphs", 0), 5),
        (("record", "graphs", 0, 0, "given"), 5),
        (("record", "variables"), ["weight 0"]),
        (("record", "variables", 0), {}),
        (("record", "hyperparameters"), []),
        (("record", "batches"), 5),
        (("record", "hyperparameters", "gradient_accumulation_steps"), "x"),
        (("record", "callbacks", 1, 0), {}),
        (("record", "callbacks", 1, 1), "x"),
        (("record", "callbacks", 1, 1), None),
        (("record",), {}),
        (("record",), []),
        (("callbacks",), [["History"]]),
        (("callbacks", 0, 0), []),
        (("callbacks", 0, 0), {}),
        (("callbacks", 1, 1), {"x": 1}),
    ],
)
def test_any_edited_part_is_one_clear_error(finished, tmp_path, place, value):
    what = "`EarlyStopping`" if value == {"x": 1} else "this script"
    with pytest.raises(ValueError, match=f"does not fit {what}"):
        restart(tmp_path, edited(finished, *place, value=value))


def test_values_of_other_shapes_are_refused(finished, tmp_path):
    model = small.wake()
    for name, value in finished.items():
        # A scalar is not a list of one, and nothing is no value.
        for other in (value.reshape(1, *value.shape), value[..., None][:0]):
            if name.startswith("value_"):
                np.savez(tmp_path / "backup.npz", **{**finished, name: other})
                with pytest.raises(ValueError, match="has shape"):
                    kw.BackupAndRestore(tmp_path).restore(model)


def test_any_damage_is_one_clear_error(finished, tmp_path):
    """Bytes of the directory are not covered by a checksum."""
    path = tmp_path / "a.npz"
    np.savez(path, **finished)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = set()
    start = whole.rindex(b"PK\x01\x02", 0, whole.index(b"PK\x01\x02") + 4)
    # Not a byte of a header, such as a date, which may be anything.
    changed = bytearray(whole)
    changed[whole.index(b'"callbacks"')] ^= 255
    damaged = [b"", whole[:1000], changed]
    for number in range(300):
        content = bytearray(whole)
        first = start if number % 2 else 0
        for _ in range(1 + number % 3):
            place = rng.integers(first, len(content))
            content[place] = rng.integers(256)
        damaged.append(content)
    for number, content in enumerate(damaged):
        path.write_bytes(bytes(content))
        try:
            archive.read(path)
            assert number > 2
        except ValueError as error:
            messages.add(str(error).partition("npz ")[2][:15])
    assert messages == {"cannot be read:"}


def test_small_archive_that_unpacks_to_much_is_refused(tmp_path):
    path = tmp_path / "backup.npz"
    np.savez_compressed(path, state=np.zeros(1 << 26, "uint8"))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"would unpack to 67,\d+,\d+ bytes"):
        fit(tmp_path)
    # An array that only says that it is large.
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)}
    with zipfile.ZipFile(path, "w") as file, file.open("state.npy", "w") as out:
        np.lib.format.write_array_header_1_0(out, header)
    with pytest.raises(ValueError, match="cannot be read"):
        fit(tmp_path)
