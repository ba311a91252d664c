"""Imports between the rooms of the package point one way.

And scripts that tests hold as strings name what there is: CI runs some of them
only at its end.
"""

import ast
import pathlib
import pkgutil
import textwrap

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_wake"
# A room may import from those on the floors before its own. On a floor, all
# may import each other, as long as there is no circle.
FLOORS = [
    ["utils", "_version"],
    ["backend"],
    ["data"],
    ["losses"],
    ["attacks", "objectives", "schedules"],
    ["checkpoint"],
    ["attribution"],
    ["training"],
    ["wake_model"],
    ["models", "datasets"],
    ["evaluation"],
    ["visualization"],
    ["callbacks"],
    ["theory"],
    ["doctor"],
]


def module_of(path, package):
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def arrows(package):
    """Pairs (room, room that it imports), also of imports in functions."""
    modules = {module_of(path, package) for path in package.rglob("*.py")}
    found = {}
    for path in package.rglob("*.py"):
        module = module_of(path, package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"a relative import in {module}"
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [n if n in modules else node.module for n in full]
            for name in names:
                pair = tuple(each.split(".")[1:2] for each in (module, name))
                if name.split(".")[0] == package.name and all(pair):
                    source, target = pair[0][0], pair[1][0]
                    if source != target:
                        found.setdefault((source, target), module)
    return found


def faults(package):
    """What is wrong with the imports of a package, in words."""
    floor_of = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
    found = arrows(package)
    words = [
        f"{module}: {source} must not import {target}"
        for (source, target), module in found.items()
        if floor_of.get(source, -1) < floor_of.get(target, len(FLOORS))
    ]
    for source, target in found:
        reached, new = set(), {target}
        while new:
            reached |= new
            new = {b for a, b in found if a in new} - reached
        if source in reached:
            words.append(f"circle through {source} and {target}")
    return sorted(words)


def test_imports_point_one_way():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix in ("", ".py")}
    rooms -= {"__init__", "__pycache__", "py"}
    assert rooms == {room for floor in FLOORS for room in floor}
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"utils/a.py": "def f():\n    from keras_wake import backend"},
            ["keras_wake.utils.a: utils must not import backend"],
        ),
        (
            {"training/a.py": "from keras_wake.callbacks import _writers"},
            ["keras_wake.training.a: training must not import callbacks"],
        ),
        (
            {
                "attacks/a.py": "import keras_wake.objectives.b",
                "objectives/b.py": "from keras_wake.attacks.a import c",
            },
            [
                "circle through attacks and objectives",
                "circle through objectives and attacks",
            ],
        ),
        ({"callbacks/a.py": "from keras_wake.utils import validate"}, []),
    ],
)
def test_faults_are_found(tmp_path, files, words):
    package = tmp_path / "keras_wake"
    defaults = {f"{room}/__init__.py": "" for floor in FLOORS for room in floor}
    for name, text in {"__init__.py": "", **defaults, **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert faults(package) == words


def missing(code):
    """What a piece of Python takes from keras_wake and is not there."""
    bound, names = {}, set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                root = alias.name.partition(".")[0]
                whole = alias.name if alias.asname else root
                bound[alias.asname or root] = whole
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name)
                bound[alias.asname or alias.name] = name
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            first, *others = ast.unparse(node).split(".")
            if all(map(str.isidentifier, others)) and first in bound:
                names.add(".".join([bound[first], *others]))
    found = []
    for name in sorted(names):
        if name.split(".")[0] == "keras_wake":
            try:
                pkgutil.resolve_name(name)
            except ModuleNotFoundError as error:
                # Else a backend that is not installed.
                if error.name.startswith("keras_wake"):
                    found.append(name)
            except (ImportError, AttributeError):
                found.append(name)
    return found


def scripts(path):
    """The strings of a file that are Python and import something."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = getattr(node, "value", None)
        if isinstance(text, str) and "keras_wake" in text and "import" in text:
            try:
                yield ast.parse(textwrap.dedent(text))
            except SyntaxError:
                continue


def test_scripts_in_strings_name_what_there_is():
    paths = [
        path
        for folder in ("tests", "benchmarks")
        for path in (PACKAGE.parent / folder).rglob("*.py")
        # This file has wrong names on purpose.
        if path.name != pathlib.Path(__file__).name
    ]
    found = {path: [*map(missing, scripts(path))] for path in paths}
    assert sum(map(len, found.values())) > 5
    assert {p: names for p, names in found.items() if any(names)} == {}


def test_a_name_that_is_gone_is_found():
    code = """
        import keras_wake as kw
        from keras_wake.attacks import PDG
        from keras_wake.checkpoint import archive
        import keras_wake.nowhere
        archive.wrote(kw.attacks.PGD)
    """
    assert missing(ast.parse(textwrap.dedent(code))) == [
        "keras_wake.attacks.PDG",
        "keras_wake.checkpoint.archive.wrote",
        "keras_wake.nowhere",
    ]
