"""Files are whole or absent, and no figure touches pyplot's global state."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from keras_wake.visualization import plot_history

HISTORY = {"val_accuracy": [0.1, 0.2]}


@pytest.mark.parametrize(
    "suffix, start",
    [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")],
)
def test_file_is_written_into_new_folders(tmp_path, suffix, start):
    path = tmp_path / "run" / "figures" / f"history{suffix}"
    figure = plot_history(HISTORY, path=path)
    assert isinstance(figure, Figure)
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "history.png"
    plot_history(HISTORY, path=path)
    before = path.read_bytes()

    def fails(self, target, **kwargs):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        plot_history(HISTORY, path=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_figures_do_not_register_with_pyplot():
    before = pyplot.get_fignums()
    figure = plot_history(HISTORY)
    assert pyplot.get_fignums() == before
    assert figure.canvas.manager is None


def test_import_does_without_matplotlib():
    # Keras imports matplotlib where it finds it, so that its absence from
    # sys.modules would say nothing: it is made impossible to import.
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "import keras_wake.visualization\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_values_may_be_arrays():
    figure = plot_history({"val_accuracy": np.array([0.1, 0.2])})
    assert len(figure.axes) == 1
