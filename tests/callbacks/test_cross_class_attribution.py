"""CrossClassAttribution with its own data, its figures and its refusals.

What it measures in the validation pass is compared with the stand-alone
function in `tests/test_wake_model.py`.
"""

import warnings

import keras
import numpy as np
import pytest
from dense_run import data
from dense_run import fit
from dense_run import PGD as ATTACK
from dense_run import wake
from small import network
from small import Subclassed
from small import wake as small_wake

import keras_wake as kw

eagerly = pytest.mark.usefixtures("eagerly")


@eagerly
def test_own_data_is_measured_and_logged_every_n_epochs(tmp_path):
    model = wake()
    other = data(seed=5)
    attack = kw.attacks.FGSM(epsilon=0.2)
    attribution = kw.CrossClassAttribution(
        other, attack, every=2, path=tmp_path, class_names=["a", "b", "c"]
    )
    seen = []
    # Those that come after it find its keys in the logs.
    later = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(dict(logs))
    )
    history = fit(model, kw.EMATeacher(0.5), attribution, later)
    assert [entry["epoch"] for entry in attribution.history] == [2, 4]
    assert ["val_cas" in logs for logs in seen] == [False, True, False, True]
    assert history["val_cas"] == [e["cas"] for e in attribution.history]
    last = attribution
    for each, matrix, score in (
        (model.classifier, last.correlation, last.cas),
        (model.teacher, last.teacher_correlation, last.teacher_cas),
    ):
        expected = kw.attribution.correlation_matrix(each, other, attack)
        # The same function on the same images.
        np.testing.assert_allclose(matrix, expected, atol=1e-6)
        assert score == pytest.approx(kw.attribution.cas(expected), abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "correlation_epoch_0002.png",
        "correlation_epoch_0004.png",
        "matrices",
    ]
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@eagerly
def test_a_figure_that_fails_is_a_warning(tmp_path):
    blocked = tmp_path / "folder"
    attribution = kw.CrossClassAttribution(path=blocked)

    def block(epoch, logs=None):
        blocked.rmdir()
        blocked.write_text("not a folder")

    spoiler = keras.callbacks.LambdaCallback(on_epoch_begin=block)
    with pytest.warns(UserWarning, match="could not be drawn.*goes on"):
        with pytest.warns(UserWarning, match="stays in memory.*Training goes"):
            history = fit(
                *(wake(), attribution, spoiler),
                epochs=1,
                validation_data=data(1),
            )
    assert history["val_cas"] == pytest.approx([attribution.cas], abs=1e-5)
    np.testing.assert_array_equal(
        attribution.history[0]["correlation"],
        attribution.correlation.astype("float32"),
    )


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    blocked = tmp_path / "a_file"
    blocked.write_text("not a folder")
    below = kw.CrossClassAttribution(path=blocked / "folder")
    with pytest.raises(ValueError, match=r"files can be written to.*a_file"):
        fit(wake(), below, epochs=1, validation_data=data(1))


@eagerly
def test_matrices_are_written_once_and_read_when_asked_for(tmp_path):
    backup = tmp_path / "backup"

    def callbacks():
        first = kw.CrossClassAttribution()
        second = kw.CrossClassAttribution(data(2), kw.attacks.FGSM())
        keeper = kw.BackupAndRestore(backup, delete_checkpoint=False)
        return [kw.EMATeacher(0.5), first, second, keeper]

    whole = callbacks()[:3]
    fit(wake(), *whole, epochs=3, validation_data=data(1))
    fit(wake(), *callbacks(), epochs=2, validation_data=data(1))
    written = (backup / "matrices" / "correlation_epoch_0001.npy").stat()
    # Of an epoch after the backup, from a run that was killed in it.
    stale = backup / "matrices_2" / "teacher_correlation_epoch_0003.npy"
    stale.write_bytes(b"half a file")
    again = callbacks()
    fit(wake(), *again, epochs=3, validation_data=data(1))
    for found, expected in zip(again[1:3], whole[1:], strict=True):
        assert [entry["epoch"] for entry in found.history] == [1, 2, 3]
        for entry, other in zip(found.history, expected.history, strict=True):
            assert isinstance(other, dict)
            np.testing.assert_equal(dict(entry), dict(other))
            assert entry["correlation"].dtype == np.float32
        # What stays in memory does not grow with the matrices.
        assert "matrix in" in repr(found.history)
    for name in ("matrices", "matrices_2"):
        assert len(list((backup / name).iterdir())) == 6
    now = (backup / "matrices" / "correlation_epoch_0001.npy").stat()
    assert now.st_mtime_ns == written.st_mtime_ns
    assert "array" not in repr(again[1].get_state())


@eagerly
def test_a_matrix_that_is_gone_or_of_another_run_is_said_to_be(tmp_path):
    callback = kw.CrossClassAttribution(path=tmp_path)
    fit(wake(), callback, epochs=3, validation_data=data(1))
    first, second, third = callback.history
    files = sorted((tmp_path / "matrices").iterdir())
    files[0].unlink()
    files[1].write_bytes(files[2].read_bytes())
    assert "correlation" in first
    assert first["cas"] > 0
    with pytest.raises(FileNotFoundError, match=r"epoch_0001.npy.*is gone"):
        first["correlation"]
    with pytest.raises(ValueError, match="another run has replaced it"):
        second["correlation"]
    files[1].write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        second["correlation"]
    np.testing.assert_allclose(
        dict(third)["correlation"], callback.correlation, atol=1e-6
    )


def test_a_backup_that_holds_the_matrices_is_taken_over():
    matrix = np.eye(3)
    entry = {"epoch": 1, "correlation": matrix, "cas": 0.0}
    callback = kw.CrossClassAttribution()
    callback.set_model(wake())
    callback.set_state({"history": [entry], "missing": 0})
    np.testing.assert_array_equal(callback.correlation, matrix)
    np.testing.assert_array_equal(callback.history[0]["correlation"], matrix)
    assert callback.cas == 0


@eagerly
def test_many_classes_in_memory_are_warned_of(monkeypatch, tmp_path):
    name = "keras_wake.callbacks.cross_class_attribution.MOST_CLASSES_IN_MEMORY"
    monkeypatch.setattr(name, 2)
    with pytest.warns(UserWarning, match=r"stay in memory.*path=") as caught:
        callback = kw.CrossClassAttribution()
        fit(wake(), callback, epochs=2, validation_data=data(1))
    assert sum("stay in memory" in str(w.message) for w in caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*stay in memory")
        kept = kw.CrossClassAttribution(path=tmp_path)
        fit(wake(), kept, epochs=1, validation_data=data(1))


def test_a_class_without_samples_is_nan_and_warned_of_once():
    x, y = data(1)
    present = y != 1
    attribution = kw.CrossClassAttribution()
    kept = x[present], y[present]
    with pytest.warns(UserWarning, match="1 of 3 classes have no") as caught:
        history = fit(wake(), attribution, epochs=2, validation_data=kept)
    assert sum("have no samples" in str(w.message) for w in caught) == 1
    matrix = attribution.correlation
    assert np.isnan(matrix[1]).all() and np.isnan(matrix[:, 1]).all()
    pair = matrix[0, 2]
    assert np.isfinite(pair)
    # In the compiled step as in NumPy: what is missing adds nothing.
    expected = 2 * max(pair, 0)
    assert attribution.cas == pytest.approx(expected)
    assert history["val_cas"][-1] == pytest.approx(expected, abs=1e-5)


@eagerly
def test_validating_every_other_epoch_measures_every_other_epoch():
    attribution = kw.CrossClassAttribution()
    fit(wake(), attribution, validation_data=data(1), validation_freq=2)
    assert [entry["epoch"] for entry in attribution.history] == [2, 4]


@eagerly
def test_refuses_fit_without_validation():
    with pytest.raises(
        ValueError, match=r"`fit` has none. Pass `validation_data=`"
    ):
        fit(wake(), kw.CrossClassAttribution())
    # A split of the training data is a validation as well.
    attribution = kw.CrossClassAttribution()
    fit(wake(), attribution, epochs=1, validation_split=0.5)
    assert attribution.cas is not None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("path", value, "`path` must") for value in (5, "", b"f", __file__)),
        ("class_names", {"a", "b", "c"}, "in the order of the classes"),
        ("class_names", {"a": 0, "b": 1}, "in the order of the classes"),
        ("attack", ATTACK, r"`head` are for `data`.*PGD\("),
        ("head", "logits", "`head` are for `data`"),
        ("every", 0, "`every` must be at least 1"),
        ("data", (batch for batch in [data()]), "more than once.*generator"),
    ],
)
def test_refuses(name, value, message):
    errors = {"path": (TypeError, ValueError), "class_names": TypeError}
    with pytest.raises(errors.get(name, ValueError), match=message):
        kw.CrossClassAttribution(**{name: value})


@eagerly
@pytest.mark.parametrize("where", ["model", "callback", "layer"])
def test_a_named_head_serves_student_and_teacher(where):
    keras.utils.set_random_seed(0)
    classifier = Subclassed()
    classifier(data()[0])
    head = "logits" if where != "layer" else classifier.logits
    of_model, of_callback = (head, None) if where == "model" else (None, head)
    model = small_wake(classifier, ATTACK, head=of_model)
    callback = kw.CrossClassAttribution(data=data(), head=of_callback)
    fit(model, kw.EMATeacher(0.5), callback, epochs=2)
    expected = kw.attribution.correlation_matrix(
        model.teacher, data(), ATTACK, head=model.teacher.logits
    )
    # The same images, attack and weights, summed in the same order.
    np.testing.assert_allclose(callback.teacher_correlation, expected)


@eagerly
@pytest.mark.parametrize("given", [False, True])
def test_no_attribution_at_all_is_not_the_best_score(given):
    def dead():
        zero = keras.layers.Dense(3, kernel_initializer="zeros")
        return [zero, keras.layers.ReLU()]

    model = kw.WakeModel(network(dead), ATTACK, "standard")
    model.compile(keras.optimizers.SGD(0.0))
    callback = kw.CrossClassAttribution(data=data() if given else None)
    with pytest.warns(UserWarning, match="3 of 3 classes"):
        log = fit(model, callback, epochs=1, validation_data=data())
    assert np.isnan(log["val_cas"]).all() and np.isnan(callback.cas)


@eagerly
def test_cas_of_many_classes_is_computed_at_the_end_of_a_pass(monkeypatch):
    monkeypatch.setattr(
        "keras_wake.training.evaluation_step.MAX_CLASSES_FOR_CAS_IN_STEP", 2
    )
    # Two rows of similarities at a time, the last one alone.
    monkeypatch.setattr("keras_wake.attribution.metric._ROWS", 2)
    seen = []
    watcher = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: seen.append(dict(logs))
    )
    callback = kw.CrossClassAttribution()
    history = fit(
        *(wake(), kw.EMATeacher(0.5), callback, watcher),
        epochs=2,
        validation_data=data(1),
        validation_batch_size=8,
    )
    for batch in seen:
        assert np.isnan(float(batch["cas"]))
        assert np.isnan(float(batch["teacher_cas"]))
        assert 0 <= float(batch["robust_accuracy"]) <= 1
    expected = [
        (entry["cas"], entry["teacher_cas"]) for entry in callback.history
    ]
    found = zip(history["val_cas"], history["val_teacher_cas"], strict=True)
    # Float32 against float64.
    np.testing.assert_allclose(list(found), expected, atol=1e-5)
