"""The comparison of AT and WAKE, on records made by hand."""

import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "robust_overfitting.py"
    spec = importlib.util.spec_from_file_location("robust_overfitting", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(method, seed, robust):
    """A record whose second epoch was not validated."""
    prefixes = ["val_", "val_teacher_"] if method == "wake" else ["val_"]
    epochs = []
    for number, accuracy in zip((1, 3, 4), robust, strict=True):
        epochs.append({"epoch": number, "loss": 1.0})
        for shift, prefix in enumerate(prefixes):
            epochs[-1][f"{prefix}accuracy"] = 0.75
            epochs[-1][f"{prefix}robust_accuracy"] = accuracy + 0.125 * shift
            epochs[-1][f"{prefix}cas"] = 40 * accuracy
    epochs.insert(1, {"epoch": 2, "loss": 1.0})
    row = {"epoch": "last", "network": "student", "clean": 0.75}
    return {
        "settings": {"method": method, "seed": seed},
        "epochs": epochs,
        "table": [{**row, "robust": robust[-1], "cas": None}],
    }


@pytest.fixture
def paths(tmp_path):
    records = [
        record("at", 7, (0.25, 0.5, 0.375)),
        record("wake", 4, (0.125, 0.25, 0.5)),
        record("wake", 2, (0.25, 0.5, 0.5)),
    ]
    for number, content in enumerate(records):
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    return sorted(tmp_path.glob("*.json"))


def test_tables(benchmark, paths):
    records, histories = benchmark.read(paths)
    lines = benchmark.table(histories).splitlines()[2:]
    assert lines == [
        "| AT | 7 | 50.0 (3) | 37.5 | 12.5 | 75.0 | 20.0 | 15.0 |",
        "| AT | mean | **50.0 ± 0.0** | **37.5 ± 0.0** | **12.5 ± 0.0** | "
        "**75.0 ± 0.0** | **20.0 ± 0.0** | **15.0 ± 0.0** |",
        "| WAKE, student | 2 | 50.0 (3) | 50.0 | 0.0 | 75.0 | 20.0 | 20.0 |",
        "| WAKE, student | 4 | 50.0 (4) | 50.0 | 0.0 | 75.0 | 20.0 | 20.0 |",
        "| WAKE, student | mean | **50.0 ± 0.0** | **50.0 ± 0.0** | "
        "**0.0 ± 0.0** | **75.0 ± 0.0** | **20.0 ± 0.0** | **20.0 ± 0.0** |",
        "| WAKE, teacher | 2 | 62.5 (3) | 62.5 | 0.0 | 75.0 | 20.0 | 20.0 |",
        "| WAKE, teacher | 4 | 62.5 (4) | 62.5 | 0.0 | 75.0 | 20.0 | 20.0 |",
        "| WAKE, teacher | mean | **62.5 ± 0.0** | **62.5 ± 0.0** | "
        "**0.0 ± 0.0** | **75.0 ± 0.0** | **20.0 ± 0.0** | **20.0 ± 0.0** |",
    ]
    assert benchmark.test_table(records).splitlines()[2:] == [
        "| at | student | last | 75.0 ± 0.0 | 37.5 ± 0.0 | nan ± nan |",
        "| wake | student | last | 75.0 ± 0.0 | 50.0 ± 0.0 | nan ± nan |",
    ]


def test_draws_and_prints(benchmark, paths, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    benchmark.main([*map(str, paths), "--figure", str(figure)])
    assert figure.stat().st_size > 0
    assert "| AT | 7 | 50.0 (3)" in capsys.readouterr().out


def test_without_records_is_refused(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([str(tmp_path / "curves.png")])
    assert "there is no record (*.json) among" in capsys.readouterr().err
