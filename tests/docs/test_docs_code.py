"""The code that the documentation shows runs."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_wake

ROOT = pathlib.Path(__file__).parents[2]
# So many epochs are run, of those of a page.
EPOCHS = 2
BLOCK = re.compile(r"(<!-- not run -->\n+)?^```python\n(.*?)^```$", re.M | re.S)


def python_blocks(page):
    """The Python blocks of a page, without those that are marked."""
    text = (ROOT / page).read_text()
    return [block for mark, block in BLOCK.findall(text) if not mark]


def run_page(page, folder):
    """Runs the code of a page in a folder, with few epochs."""
    code = "\n".join(python_blocks(page))
    code = re.sub(
        r"^epochs = \d+$", f"epochs = {EPOCHS}", code, flags=re.MULTILINE
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


# Each of these stands for itself.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("how-to", "concepts")
    for path in (ROOT / "docs" / folder).glob("*.md")
)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)])
def test_page_runs_from_top_to_bottom(page, tmp_path):
    run_page(page, tmp_path)


def resolve(node):
    """What a dotted name such as `kw.attacks.PGD` stands for, or None."""
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value)
        return None if owner is None else getattr(owner, node.attr)
    names = {"kw": keras_wake, "keras_wake": keras_wake, "keras": keras}
    return names.get(node.id) if isinstance(node, ast.Name) else None


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/index.md",
        "docs/evaluation.md",
        *(page for page in PAGES if python_blocks(page)),
    ],
)
def test_names_and_arguments_of_a_page_exist(page):
    blocks = python_blocks(page)
    assert blocks
    calls = 0
    for block in blocks:
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                resolve(node)
            if isinstance(node, ast.Call):
                target = resolve(node.func)
                if target is None:
                    continue
                calls += 1
                inspect.signature(target).bind(
                    *node.args, **{word.arg: None for word in node.keywords}
                )
    assert calls


def test_a_wrong_name_is_seen():
    node = ast.parse("kw.attacks.PDG()").body[0].value
    with pytest.raises(AttributeError, match="PDG"):
        resolve(node.func)


def modules():
    """All modules of the package, and the package itself."""
    yield keras_wake
    for found in pkgutil.walk_packages(keras_wake.__path__, "keras_wake."):
        yield importlib.import_module(found.name)


def docstring_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = {"keras": keras, "keras_wake": keras_wake, "np": np}
    for module in modules():
        scope = {**names, **vars(module)}
        for test in finder.find(module, module=module, globs=scope):
            if test.examples:
                yield test


EXAMPLES = sorted(docstring_examples(), key=lambda test: test.name)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_docstring_example(example):
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    report = []
    runner.run(example, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)


def test_docstring_examples_are_found():
    names = [example.name for example in EXAMPLES]
    assert "keras_wake.schedules.DistillationRamp" in names
