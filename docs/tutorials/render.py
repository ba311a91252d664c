"""Runs the tutorials and writes their pages, with what they printed and drew.

    python docs/tutorials/render.py                 # all of them
    python docs/tutorials/render.py autoattack      # one
    python docs/tutorials/render.py --quick --output /tmp/pages

A tutorial is a Python script in cells: `# %% [markdown]` begins text, `# %%`
code. Each is run from top to bottom in a process and a folder of its own, and
its page has the text, the code and what each cell printed. Figures that it
writes to `images/` are kept beside the page. A line `n = 30  # quick: 2` shows
as `n = 30`, and with `--quick` runs as `n = 2`: the reduced setting of the
tests.
"""

import argparse
import contextlib
import datetime
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
CELL = re.compile(r"^# %%(?: (\[markdown\]))?\n", re.M)
QUICK = re.compile(r"^(\s*\w+ = )(.+?)  # quick: (.+)$", re.M)
# Warnings of frameworks about this machine are no part of a lesson.
SETTINGS = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


def cells(script: str) -> list[tuple[bool, str]]:
    """The cells of a script: whether each is code, and its text."""
    _, *parts = CELL.split(script)
    found = []
    for mark, body in zip(parts[::2], parts[1::2], strict=True):
        body = body.strip("\n")
        if mark:
            lines = [line.removeprefix("#") for line in body.split("\n")]
            body = "\n".join(line.removeprefix(" ") for line in lines)
        found.append((mark is None, body))
    return found


def run(name: str, output: pathlib.Path, quick: bool) -> None:
    """Runs a tutorial in this process and writes its page and figures."""
    page = []
    namespace = {"__name__": "__main__"}
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    # What a tutorial writes beside its figures is not kept.
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        pathlib.Path("images").mkdir()
        for is_code, body in cells((FOLDER / f"{name}.py").read_text()):
            if not is_code:
                page.append(body)
                continue
            shown = QUICK.sub(r"\1\2", body)
            page.append(f"```python\n{shown}\n```")
            code = QUICK.sub(r"\1\3", body) if quick else shown
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"{name}.py", "exec"), namespace)
            if text := printed.getvalue().rstrip():
                page.append(f"```text\n{text}\n```")
        for figure in pathlib.Path("images").glob("*.png"):
            shutil.copyfile(figure, images / figure.name)
    import keras  # the backend is that of the tutorial

    page.append(
        f"*Made by `python docs/tutorials/render.py {name}` with Keras "
        f"{keras.__version__} on the {keras.backend.backend()} backend, "
        f"oneDNN on, {os.cpu_count()} CPU cores, "
        f"{datetime.date.today():%-d %B %Y}. Rounding is another elsewhere, and "
        "training ends with slightly other numbers.*"
    )
    (output / f"{name}.md").write_text("\n\n".join(page) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Runs each tutorial in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "render")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=FOLDER)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(names):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {names}")
    for name in args.names or names:
        if args.here:
            run(name, args.output.resolve(), args.quick)
            continue
        print(name, flush=True)
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        subprocess.run(
            [sys.executable, __file__, name, "--here"]
            + ["--quick"] * args.quick
            + ["--output", str(args.output)],
            env={
                **os.environ,
                **SETTINGS,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
            },
            check=True,
        )


if __name__ == "__main__":
    main()
