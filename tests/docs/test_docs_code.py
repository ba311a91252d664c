"""The code that the documentation shows runs."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import os
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
from small import output_of

import keras_wake

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run -->\n+)?^```python\n(.*?)^```$", re.M | re.S)


def python_blocks(page):
    """The Python blocks of a page, without those that are marked."""
    text = (ROOT / page).read_text()
    return [block for mark, block in BLOCK.findall(text) if not mark]


PAGES = [
    page
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if python_blocks(page := str(path.relative_to(ROOT)))
]
# Each of these stands for itself.
RUN = [p for p in PAGES if p.startswith(("docs/how-to/", "docs/concepts/"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_page_runs_from_top_to_bottom(page, tmp_path):
    code = "\n".join(python_blocks(page))
    code = re.sub(r"^epochs = \d+$", "epochs = 2", code, flags=re.MULTILINE)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    output_of("-c", code, cwd=tmp_path, env=env)


def resolve(node):
    """What a dotted name such as `kw.attacks.PGD` stands for, or None."""
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value)
        return None if owner is None else getattr(owner, node.attr)
    names = {"kw": keras_wake, "keras_wake": keras_wake, "keras": keras}
    return names.get(node.id) if isinstance(node, ast.Name) else None


def check_names(block):
    """Resolves the names of a block; returns how many are of keras_wake."""
    found = 0
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute):
            found += resolve(node) is not None
        if isinstance(node, ast.Call) and resolve(node.func) is not None:
            inspect.signature(resolve(node.func)).bind(
                *node.args, **{word.arg: None for word in node.keywords}
            )
    return found


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_names_and_arguments_of_a_page_exist(page):
    assert sum(map(check_names, python_blocks(page)))


def test_a_wrong_name_is_seen():
    node = ast.parse("kw.attacks.PDG()").body[0].value
    with pytest.raises(AttributeError, match="PDG"):
        resolve(node.func)


BACKENDS = ("jax", "tensorflow", "torch")


def modules():
    """The package and its modules, but for a backend that is not installed."""
    yield keras_wake
    for _, name, _ in pkgutil.walk_packages(keras_wake.__path__, "keras_wake."):
        package, _, last = name.rpartition(".")
        backend = last.partition("_")[0]  # `torch_processes` needs torch.
        is_backend = package == "keras_wake.backend" and backend in BACKENDS
        if not is_backend or importlib.util.find_spec(backend):
            yield importlib.import_module(name)


def docstrings():
    """All docstrings of the package, as doctests that may be empty."""
    finder = doctest.DocTestFinder(exclude_empty=False)
    names = {"keras": keras, "keras_wake": keras_wake}
    names |= {"kw": keras_wake, "np": np}
    for module in modules():
        scope = {**names, **vars(module)}
        yield from finder.find(module, module=module, globs=scope)


TESTS = sorted(docstrings(), key=lambda test: test.name)
EXAMPLES = [test for test in TESTS if test.examples]
# The Python blocks, by the name of what they explain.
BLOCKS = [
    pytest.param(block, test.globs, id=test.name)
    for test in TESTS
    for _, block in BLOCK.findall(inspect.cleandoc(test.docstring))
]


def test_docstring_examples_are_found():
    names = [example.name for example in EXAMPLES]
    assert "keras_wake.schedules.DistillationRamp" in names


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_docstring_example(example):
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    report = []
    runner.run(example, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize(("block", "scope"), BLOCKS)
def test_names_and_arguments_of_a_docstring_exist(block, scope):
    check_names(block)


# What a block is run with, of what it shows: the setting is a small one.
SMALLER = (
    (r"epochs=\d+", "epochs=2"),
    (r"every=\d+", "every=2"),
    (r"epochs = \(10, 103, 200\)", "epochs = (1, 2)"),
    (r"\d0_000", "500"),
    (r"PreActResNet18\(\)", "PreActResNet18(width=2)"),
    (
        r"PreActResNet18\(num_classes=10\)",
        "SmallCNN(10, (8, 8, 1), widths=(4, 4, 4), strides=(1, 2, 1))",
    ),
)
# What a name stands for that a block takes as given.
GIVEN = """
import warnings

splits = keras_wake.datasets.load(
    "digits", batch_size=32, limit=96, validation_split=32, test_limit=32
)
train, validation, test = splits.train, splits.validation, splits.test
x, y = x_test, y_test = x_val, y_val = images = splits.arrays("test")
classifier = keras_wake.models.SmallCNN(
    10, (8, 8, 1), widths=(4, 4, 4), strides=(1, 2, 1)
)
best = last = classifier
for name in ("robust", "regular"):
    classifier.save(f"{name}.keras")
attack = keras_wake.attacks.PGD(epsilon=0.1, steps=2)
model = keras_wake.WakeModel(classifier, attack, eval_attack=attack)
model.compile("sgd")
at_seed_0 = at_seed_1 = wake_seed_0 = wake_seed_1 = {
    "val_robust_accuracy": [0.1, 0.2], "val_cas": [3.0, 2.0]
}
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("block", "scope"), BLOCKS)
def test_code_of_a_docstring_runs(block, scope, tmp_path, monkeypatch):
    if "DeiTTiny" in block:
        pytest.importorskip("keras_hub")
    if "model_best.pth" in block:
        pytest.skip("needs a published file; see tests/models")
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    for pattern, smaller in SMALLER:
        block = re.sub(pattern, smaller, block)
    scope = dict(scope)
    exec(GIVEN + block, scope)
