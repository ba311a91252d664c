"""The tutorials run, and their pages are what the scripts say."""

import importlib
import os
import pathlib
import re

import pytest
from small import output_of

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "tutorials"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "render")
FIGURE = re.compile(r"!\[([^\]]+)\]\((images/[^)]+)\)")


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("render")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_in_a_reduced_setting(name, tmp_path):
    output_of(
        *(FOLDER / "render.py", name, "--quick", "--output", tmp_path),
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        timeout=900,
    )
    page = (tmp_path / f"{name}.md").read_text()
    assert "```python" in page and "```text" in page
    # The folder has the page and the figures that it shows, and no more.
    shown = {pathlib.Path(place).name for _, place in FIGURE.findall(page)}
    assert {p.name for p in (tmp_path / "images").iterdir()} == shown
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.md", "images"}


@pytest.mark.parametrize("name", NAMES)
def test_page_is_that_of_the_script(name, render):
    script = (FOLDER / f"{name}.py").read_text()
    page = (FOLDER / f"{name}.md").read_text()
    for is_code, body in render.cells(script):
        shown = render.QUICK.sub(r"\1\2", body)
        if is_code:
            shown = f"```python\n{shown}\n```"
        _, found, page = page.partition(shown)
        assert found, f"Run `python docs/tutorials/render.py {name}`:\n{shown}"


def test_reduced_setting_is_run_and_not_shown(render, tmp_path, monkeypatch):
    (tmp_path / "short.py").write_text(
        "# %% [markdown]\n# # Title\n#\n# Text\n\n"
        "# %%\nn = 30  # quick: 2\nprint(n, __name__)\n"
        "open('left.txt', 'w').close()\n"
        "open('images/a.png', 'w').close()\n"
    )
    monkeypatch.setattr(render, "FOLDER", tmp_path)
    output = tmp_path / "output"
    render.run("short", output, quick=True)
    page = (output / "short.md").read_text()
    assert page.startswith("# Title\n\nText\n\n```python\n")
    assert "n = 30\n" in page and "quick" not in page.partition("*Made")[0]
    assert "```text\n2 __main__\n```" in page
    assert [p.name for p in output.rglob("*.*")] == ["short.md", "a.png"]


def test_unknown_tutorial_is_refused(render, capsys):
    with pytest.raises(SystemExit):
        render.main(["nothing"])
    assert "unknown: nothing; choose from" in capsys.readouterr().err
