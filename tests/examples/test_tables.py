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


def names(text):
    return [row[0] for row in rows(text)[1:]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"beta": 6.0}, {"beta": 1.0}, ["trades", "trades, beta = 1"]),
        (
            {"dataset": "digits"},
            {"dataset": "cifar10"},
            ["trades, dataset = digits", "trades, dataset = cifar10"],
        ),
        ({}, {"early_stop": 3}, ["trades", "trades, early_stop = 3"]),
        (
            {},
            {"precision": "mixed_float16"},
            [
                "trades, precision = float32",
                "trades, precision = mixed_float16",
            ],
        ),
    ],
)
def test_rows_that_differ_are_told_apart(examples, first, second, expected):
    groups = [
        [record("trades", 0, (0.2, 0.4, 0.3), **settings)]
        for settings in (first, second)
    ]
    tables = examples.tables
    assert names(tables.results(groups)) == expected
    assert names(tables.over_epochs(groups, 4)) == expected


def test_settings_that_follow_from_others_are_not_named(examples):
    groups = [
        [
            record(
                "wake",
                0,
                (0.2, 0.4, 0.3),
                epsilon=epsilon,
                step_size=epsilon / 4,
                start_epoch=6,
                end_epoch=7,
                beta=beta,
            )
        ]
        # WAKE does not look at β.
        for epsilon, beta in ((8 / 255, 6.0), (16 / 255, 1.0))
    ]
    assert names(examples.tables.results(groups)) == ["wake", "wake"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # As older records are.
        ({}, {"precision": "float32"}),
        ({"beta": 6.0, "steps": 10}, {"beta": None, "steps": 10}),
        # A flag makes a float of it.
        ({"validation": 1000}, {"validation": 1000.0}),
    ],
)
def test_settings_that_are_the_same(examples, first, second):
    found = examples.tables.groups(
        [
            record("at", 0, (0.2, 0.4, 0.3), **first),
            record("at", 1, (0.2, 0.4, 0.3), **second),
        ],
        None,
    )
    assert [len(group) for group in found] == [2]


def test_seeds_are_counted_and_not_files(examples, write, capsys):
    again = record("at", 0, (0.2, 0.4, 0.1))
    cut = record("at", 0, (0.9, 0.9, 0.9))
    del cut["table"]
    folder = write(
        record("at", 0, (0.2, 0.4, 0.3)),
        record("at", 0, (0.2, 0.4, 0.3)),
        {**again, "started": "2026-01-02 10:00"},
        {**cut, "started": "2026-01-03 10:00"},
        record("at", 1, (0.2, 0.4, 0.1)),
    )
    examples.tables.main([str(folder)])
    printed = capsys.readouterr().out
    _, row = rows(printed)
    assert row[3] == "2"
    # Of the finished runs of seed 0 the last one.
    assert row[5] == "10.0 ± 0.0"
    assert "5 records are of 2 runs" in printed


def test_clean_cas_is_not_mixed_with_adversarial(examples, write, capsys):
    old = record("standard", 0, (0.0, 0.0, 0.0))
    new = record("standard", 1, (0.0, 0.0, 0.0))
    for row in new["table"]:
        row.update(cas=3.0, cas_images="clean")
    for row in old["table"]:
        row["cas"] = 77.0
    folder = write(old, new, record("at", 0, (0.2, 0.4, 0.3)))
    examples.tables.main([str(folder)])
    printed = capsys.readouterr().out
    _, at, standard = rows(printed)
    assert standard[-2:] == ["3.0 †", "3.0 †"]
    assert at[-1] == "3.0"
    assert "† CAS of clean images" in printed


def test_unfinished_runs_are_named(examples, write, capsys):
    unfinished = record("trades", 3, (0.2, 0.4, 0.3), beta=1.0)
    unfinished["table"] = None
    folder = write(unfinished, record("at", 0, (0.2, 0.4, 0.3)))
    examples.tables.main([str(folder)])
    assert (
        "- trades, beta = 1, ℓ∞ 8/255, seed 3 (3 of 12 epochs)"
    ) in capsys.readouterr().out


def test_by_shows_the_value(examples, write, capsys):
    folder = write(
        record("at", 0, (0.2, 0.4, 0.3), augment="flip"),
        record("wake", 0, (0.2, 0.4, 0.3), augment="flip"),
    )
    examples.tables.main([str(folder), "--by", "augment"])
    found = names(capsys.readouterr().out)
    assert found == ["at, augment = flip", "wake, augment = flip"]
    with pytest.raises(SystemExit):
        examples.tables.main([str(folder), "--by", "colour"])
    assert "no run has this setting. Received: 'colour'" in (
        capsys.readouterr().err
    )


def test_one_bad_record_does_not_kill_the_table(examples, write, capsys):
    bad = [record("at", seed, (0.2, 0.4, 0.3)) for seed in range(5)]
    bad[0]["settings"]["epsilon"] = "8/255"
    bad[1]["settings"]["norm"] = "l1"
    bad[2]["table"] = [{"epoch": "best"}]
    bad[3]["epochs"] = None
    bad[4]["epochs"][0]["val_robust_accuracy"] = "high"
    folder = write(*bad, record("at", 7, (0.2, 0.4, 0.3)))
    (folder / "record.json").write_text("[1]")
    examples.tables.main([str(folder), "--early", "4"])
    captured = capsys.readouterr()
    assert captured.err.count("is no record of a run") == 6
    assert rows(captured.out)[1][3] == "1"
