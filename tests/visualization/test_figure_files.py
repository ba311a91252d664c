"""Files are whole or absent, and no figure touches pyplot's global state."""

import importlib
import sys

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text

import keras_wake
from keras_wake import visualization
from keras_wake.attribution._examples import Example
from keras_wake.attribution.report import SharedPair
from keras_wake.utils import validate

# Values may be lists or arrays.
HISTORY = {"val_accuracy": np.array([0.1, 0.2])}


@pytest.mark.parametrize(
    "suffix, start",
    [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")],
)
def test_file_is_written_into_new_folders(tmp_path, suffix, start):
    path = tmp_path / "run" / "figures" / f"history{suffix}"
    before = pyplot.get_fignums()
    figure = visualization.plot_history(HISTORY, path=path)
    assert isinstance(figure, Figure) and figure.canvas.manager is None
    assert pyplot.get_fignums() == before
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "history.png"
    visualization.plot_history(HISTORY, path=path)
    before = path.read_bytes()

    def fails(self, target, **kwargs):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        visualization.plot_history(HISTORY, path=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_import_does_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if "visualization" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(keras_wake, "visualization", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = importlib.import_module("keras_wake.visualization")
    assert found.plot_history is not visualization.plot_history
    with pytest.raises(ImportError, match="matplotlib"):
        found.plot_history(HISTORY)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (5, TypeError, "`path` must be a path"),
        ("", ValueError, "`path` must be the name"),
        (b"a.png", TypeError, "`path` must be a path"),
    ],
)
def test_a_wrong_path_is_refused(tmp_path, path, error, message):
    with pytest.raises(error, match=message):
        visualization.plot_history(HISTORY, path=path)
    folder = tmp_path / "figures.png"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"file, no folder.*figures\.png"):
        visualization.plot_history(HISTORY, path=folder)


# Two dollars would be a formula, a wrong one an error when it is drawn; the
# last name is of a folder whose bytes are no UTF-8.
def test_odd_class_names_are_drawn_as_they_are(make_report):
    odd = [r"$\nothing$", "5 $ or 6 $", "caf\udce9"]
    matrix = np.eye(3)
    matrix[2] = matrix[:, 2] = np.nan
    images = np.full((3, 4, 4, 1), 0.5)
    numbers = np.arange(3)
    names = validate.list_of_names(odd)
    examples = ([Example(0, images[0], images[0])], [])
    pair = SharedPair((0, 1), 0.5, (1, 1), examples)
    report = make_report(names=names, matrix=matrix, pairs=[pair])
    given = (images, images, numbers, numbers, numbers, odd)
    for figure in (
        visualization.plot_correlation_matrix(matrix, odd),
        visualization.plot_correlation_difference(matrix, matrix, odd),
        visualization.plot_correlation_strip({1: matrix}, class_names=odd),
        visualization.plot_class_report(report),
        visualization.plot_shared_pairs(report),
        visualization.plot_adversarial_examples(*given),
    ):
        figure.draw_without_rendering()
        texts = [
            text
            for text in figure.findobj(Text)
            if "$" in text.get_text() or "caf" in text.get_text()
        ]
        assert texts
        assert not any(text.get_parse_math() for text in texts)
        assert not any("\udce9" in text.get_text() for text in texts)
    # A terminal takes it.
    assert r"caf\udce9" in names
    str(report).encode()


@pytest.mark.parametrize("names", [{"a", "b"}, {0: "a", 1: "b"}])
def test_class_names_without_an_order_are_refused(names):
    with pytest.raises(TypeError, match="in the order of the classes"):
        visualization.plot_correlation_matrix(np.eye(2), names)
    given = [np.zeros((2, 4, 4, 1))] * 2 + [[0, 1]] * 3
    with pytest.raises(TypeError, match="in the order of the classes"):
        visualization.plot_adversarial_examples(*given, class_names=names)
