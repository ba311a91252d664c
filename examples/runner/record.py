"""`record.json` and `history.csv`: settings and results of a run."""

import copy
import csv
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from runner import processes
from runner.settings import differences

RECORD, BACKUP = "record.json", "backup"


def check_folder(run_dir: pathlib.Path, resume: bool) -> None:
    """Makes the folder of a run, and sees that it can be written.

    It refuses a run without `--resume`, and the other way round.
    """
    record = (run_dir / RECORD).exists()
    if record and not resume:
        raise ValueError(
            f"--run-dir {run_dir} already holds a run. Continue it with "
            "--resume, or choose another folder."
        )
    # After a kill in the first epoch there is a folder, but nothing to resume.
    if not record and any((run_dir / BACKUP).glob("*.npz")):
        # `fit` would continue from a backup whose settings are unknown.
        raise ValueError(
            f"--run-dir {run_dir} holds the backup of a run whose {RECORD} is "
            f"missing. Put {RECORD} back to continue it, delete "
            f"{run_dir / BACKUP} to start again, or choose another folder."
        )
    if resume and not record:
        raise ValueError(f"--resume: there is no run in {run_dir}.")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=run_dir).close()
    except OSError as error:
        raise OSError(
            f"--run-dir {run_dir} cannot be written: {error}."
        ) from error


class Record:
    """Both files of a run, which are always rewritten as a whole."""

    def __init__(
        self, run_dir: pathlib.Path, settings: dict[str, Any], device: str
    ):
        import keras

        import keras_wake

        backend = keras.backend.backend()
        self.run_dir = run_dir
        self.path = run_dir / RECORD
        self.csv_path = run_dir / "history.csv"
        self.content: dict[str, Any] = {
            "settings": settings,
            "started": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
            "commit": _commit(),
            "resumed_commits": [],
            "device": device,
            "versions": {
                "keras-wake": keras_wake.__version__,
                "keras": keras.__version__,
                **{
                    name: importlib.metadata.version(name)
                    for name in (backend, "numpy")
                },
            },
            "seconds": 0.0,
            "epochs": [],
            "found_ramp": None,
            "table": None,
        }
        self._new = copy.deepcopy(self.content)

    def load(self) -> None:
        """Reads what an earlier, interrupted run of these settings has left."""
        try:
            there = json.loads(self.path.read_text())
            settings, epochs = there["settings"], there["epochs"]
            differing = differences(settings, self.content["settings"])
            len(epochs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"--resume: {self.path} is damaged ({error!r}). Put a good "
                f"copy in its place, or delete it and {self.run_dir / BACKUP} "
                "to start again."
            ) from error
        if differing:
            raise ValueError(
                "--resume needs the settings of the run it continues. "
                f"Differing: {differing}."
            )
        resumed = [*there.get("resumed_commits", ()), self.content["commit"]]
        self.content = {**there, "resumed_commits": resumed}

    def keep_epochs(self, count: int) -> None:
        """Removes the epochs after `count`, which are trained again.

        The backup may have more epochs than the record, if the record could
        not be written; `set_state` of `KeepRecord` restores them. Without a
        backup (it was damaged, or the disk was full) the run starts again, and
        its old files are renamed.
        """
        epochs = self.content["epochs"]
        # The run may have been killed between the record and the first backup.
        if not count and len(epochs) > 1:
            print(
                f"{self.path} has {len(epochs)} epochs, and there is no "
                "backup of them. The run starts again from its first epoch.",
                flush=True,
            )
            self._set_aside()
            self.content = copy.deepcopy(self._new)
            return
        del epochs[count:]

    def _set_aside(self) -> None:
        """Renames the record and the networks of the abandoned run."""
        if not processes.is_chief():
            return
        best = sorted(self.run_dir.glob("best*.keras"))
        for path in (self.path, *(p for p in best if "_before" not in p.stem)):
            names = (
                path.with_name(f"{path.stem}_before{number}{path.suffix}")
                for number in ("", *range(2, 1000))
            )
            aside = next(name for name in names if not name.exists())
            path.rename(aside)
            print(f"{path.name} is now {aside.name}.", flush=True)

    def add_epoch(self, logs: dict[str, Any], seconds: float) -> None:
        """Adds an epoch."""
        epochs = self.content["epochs"]
        row = {key: float(value) for key, value in logs.items()}
        epochs.append({"epoch": len(epochs) + 1, **row})
        self.content["seconds"] += seconds

    def write(self) -> None:
        """Has the first of several processes write both files.

        One that cannot be written raises an `OSError`, and stays as it is.
        """
        if not processes.is_chief():
            return
        content = json.dumps(strict(self.content), indent=1, allow_nan=False)
        if self.content["epochs"]:
            write_text(self.csv_path, self._csv())
        write_text(self.path, content + "\n")

    def columns(self) -> dict[str, list[Any]]:
        """The epochs as columns for `visualization.plot_history`.

        It counts `epochs` from 1, as this record does, and `epoch` from 0.
        """
        epochs = self.content["epochs"]
        keys = dict.fromkeys(key for epoch in epochs for key in epoch)
        columns = {key: [epoch.get(key) for epoch in epochs] for key in keys}
        return {"epochs": columns.pop("epoch"), **columns}

    def _csv(self) -> str:
        columns = strict(self.columns())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()


def write_aside(
    path: pathlib.Path, write: Callable[[pathlib.Path], Any]
) -> None:
    """Has `write` write a file under another name, then renames it.

    After a kill, or on a full disk, the old file is still complete.
    """
    aside = path.with_name(f"unfinished_{path.name}")
    try:
        write(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text, or leaves the old file complete."""
    write_aside(path, lambda aside: aside.write_text(text))


def attempt(what: str, write: Callable[..., Any], *args: Any) -> bool:
    """Writes something, and returns whether it worked; a failure is printed."""
    try:
        write(*args)
    except OSError as error:
        print(
            f"{what} could not be written: {error}. The run goes on; a file "
            "of that name from before, if there is one, is as it was.",
            file=sys.stderr,
        )
        return False
    return True


def strict(value: Any) -> Any:
    """`value` with None in place of NaN and infinity, which JSON lacks."""
    return json.loads(json.dumps(value), parse_constant=lambda constant: None)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = pathlib.Path(__file__).parent
    try:
        return subprocess.check_output(
            command, cwd=here, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
