"""The example scripts, imported by path, and a small finished run."""

import contextlib
import fcntl
import importlib
import io
import json
import os
import pathlib
import shutil
import sys
import types
from unittest import mock

import pytest
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[2]
# Three steps an epoch, and an epoch in each part of the ramp.
SMALL = (
    "--limit=60 --test-limit=30 --validation=30 --batch-size=20 "
    "--epochs=3 --steps=1 --eval-steps=1"
).split()


@pytest.fixture(scope="session")
def examples():
    """The modules of the examples, by their names."""
    folder = ROOT / "examples"
    runner = sorted((folder / "runner").glob("[a-z]*.py"))
    names = ["runner", *(f"runner.{path.stem}" for path in runner)]
    names += [path.stem for path in sorted(folder.glob("*.py"))]
    # The runner chooses settings of TensorFlow for processes of its own.
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
    ):
        return types.SimpleNamespace(
            **{
                name.removeprefix("runner."): importlib.import_module(name)
                for name in names
            }
        )


@pytest.fixture(scope="session")
def load():
    """Imports a benchmark by its name; it finds what stands beside it."""

    def load(name):
        with mock.patch.dict(os.environ):
            return importlib.import_module(name)

    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        yield load


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch):
    """Saves figures without drawing them, which costs as much as a run.

    Those of `finished_run`, which is made before, are drawn.
    """

    def save(self, path, **options):
        pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture(scope="session")
def small_setting():
    """Flags of a run of seconds."""
    return SMALL


@pytest.fixture(scope="session")
def start(examples, without_compiling):
    """Runs an example as its script does, in a small setting.

    Not compiled: a slow test and `.ci/readme` run scripts as they are.
    """

    def run(run_dir, *arguments, example="digits"):
        script = getattr(examples, example)
        argv = [*SMALL, f"--run-dir={run_dir}", *arguments]
        with without_compiling():
            examples.runner.main(script.__doc__, script.DEFAULTS, argv)

    return run


@pytest.fixture
def refused(start, capsys):
    """Runs an example that refuses its flags; returns what it says."""

    def run(run_dir, *arguments, **options):
        with pytest.raises(SystemExit) as stop:
            start(run_dir, *arguments, **options)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def finished_run(start, tmp_path_factory):
    """A finished run: its folder, its record and what it printed.

    The processes of the tests share it: the first one makes it, and the others
    wait for it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    run_dir, printed = shared / "finished_run", shared / "finished_run.txt"
    with open(shared / "finished_run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            with contextlib.redirect_stdout(io.StringIO()) as output:
                start(run_dir)
            printed.write_text(output.getvalue())
    record = json.loads((run_dir / "record.json").read_text())
    return types.SimpleNamespace(
        run_dir=run_dir, record=record, printed=printed.read_text()
    )


@pytest.fixture
def copy_of_run(finished_run, tmp_path):
    """The folder of a finished run, to be changed."""
    return shutil.copytree(finished_run.run_dir, tmp_path / "copy")
