"""Tables and sweeps from records of runs."""

import json

import pytest


def record(method, seed, robust, epsilon=8 / 255, **settings):
    epochs = [
        {
            "epoch": epoch,
            "val_robust_accuracy": value,
            "val_cas": 10 * value,
        }
        for epoch, value in zip((4, 8, 12), robust, strict=True)
    ]
    best = max(robust)
    return {
        "settings": {
            "method": method,
            "seed": seed,
            "norm": "linf",
            "epsilon": epsilon,
            "epochs": 12,
            **settings,
        },
        "epochs": epochs,
        "table": [
            {
                "epoch": epoch,
                "network": "student",
                "robust": value,
                "clean": 0.5,
                "cas": 10 * value,
            }
            for epoch, value in (("best", best), ("last", robust[-1]))
        ],
    }


@pytest.fixture
def write(tmp_path):
    def write(*records):
        for number, content in enumerate(records):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "record.json").write_text(json.dumps(content))
        return tmp_path

    return write


def rows(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]


def test_best_and_last_over_seeds(examples, write, capsys):
    folder = write(
        # A setting that AT does not look at.
        record("at", 0, (0.2, 0.4, 0.3), decay=0.99),
        record("at", 1, (0.2, 0.5, 0.1)),
        record("wake", 0, (0.2, 0.4, 0.4), decay=0.99),
    )
    (folder / "other.json").write_text("[]")
    examples.tables.main([str(folder)])
    header, at, wake = rows(capsys.readouterr().out)
    assert header[:4] == ["method", "threat", "network", "seeds"]
    # Sample deviations: 0.1 / √2 and 0.2 / √2.
    assert at == [
        *("at", "ℓ∞ 8/255", "student", "2"),
        *("45.0 ± 7.1", "20.0 ± 14.1", "50.0 ± 0.0", "50.0 ± 0.0"),
        *("4.5 ± 0.7", "2.0 ± 1.4"),
    ]
    assert wake[:6] == ["wake", "ℓ∞ 8/255", "student", "1", "40.0", "40.0"]


def test_radii_at_three_epochs(examples, write, capsys):
    folder = write(
        record("at", 0, (0.1, 0.2, 0.15), epsilon=16 / 255),
        record("at", 0, (0.2, 0.4, 0.3)),
    )
    examples.tables.main([str(folder), "--by", "epsilon", "--early", "5"])
    small, large = rows(capsys.readouterr().out)[-2:]
    assert small[1:] == [
        *("ℓ∞ 8/255", "1"),
        *("4.0 / 40.0", "4.0 / 40.0", "3.0 / 30.0"),
    ]
    assert large[1] == "ℓ∞ 16/255" and large[-1] == "1.5 / 15.0"


def test_runs_that_are_not_finished_and_files_that_are_no_records(
    examples, write, capsys
):
    unfinished = record("at", 0, (0.2, 0.4, 0.3))
    del unfinished["table"]
    folder = write(unfinished, {"settings": {}})
    examples.tables.main([str(folder), "--early", "4"])
    captured = capsys.readouterr()
    assert "is no record of a run" in captured.err
    assert rows(captured.out)[-1][0] == "at"
    with pytest.raises(SystemExit):
        examples.tables.main([str(folder / "nowhere")])
    assert "there is nothing at" in capsys.readouterr().err


def test_sweep_trains_what_is_missing(examples, tmp_path, capsys):
    sweep = examples.epsilon_sweep
    argv = ["--epsilons", "4", "8", f"--run-dir={tmp_path}", "--limit=9"]
    args, others = sweep.parse_args(argv)
    assert others == ["--limit=9"]
    _, script, *flags = sweep.command(args, others, 8.0)
    assert script.endswith("cifar10.py")
    assert flags == [
        "--method=at",
        f"--epsilon={8 / 255!r}",
        f"--run-dir={tmp_path / 'at-epsilon8'}",
        "--limit=9",
    ]
    for epsilon in (4, 8):
        folder = tmp_path / f"at-epsilon{epsilon}"
        folder.mkdir()
        content = record("at", 0, (0.2, 0.4, 0.3), epsilon=epsilon / 255)
        (folder / "record.json").write_text(json.dumps(content))
    assert sweep.command(args, others, 8.0)[-1] == "--resume"
    for epsilon in (4, 8):
        (tmp_path / f"at-epsilon{epsilon}" / "robust.keras").touch()
    assert sweep.command(args, others, 8.0) is None
    sweep.main(argv)
    first, second = rows(capsys.readouterr().out)[-2:]
    assert (first[1], second[1]) == ("ℓ∞ 4/255", "ℓ∞ 8/255")
    for wrong in (["--epsilons", "0"], ["--example", "mnist"]):
        with pytest.raises(SystemExit):
            sweep.parse_args(wrong)
