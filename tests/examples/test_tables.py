"""Tables and sweeps from records of runs."""

import json

import pytest

# That of twelve epochs, unless another one is asked for.
RAMP = {"start_epoch": 6, "end_epoch": 7}


def record(method, seed=0, robust=(0.2, 0.4, 0.3), **settings):
    fixed = {"method": method, "seed": seed, "norm": "linf", "epochs": 12}
    shown = [
        {"val_robust_accuracy": value, "val_cas": 10 * value}
        for value in robust
    ]
    return {
        "settings": {"epsilon": 8 / 255, **fixed, **settings},
        "epochs": [{"epoch": 4 * n + 4, **row} for n, row in enumerate(shown)],
        "table": [
            {
                "epoch": epoch,
                "network": "student",
                "robust": value,
                "clean": 0.5,
                "cas": 10 * value,
            }
            for epoch, value in (("best", max(robust)), ("last", robust[-1]))
        ],
    }


def rows(text):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]


def names(text):
    return [row[0] for row in rows(text)[1:]]


@pytest.fixture
def show(examples, tmp_path, capsys):
    """Writes records and shows them; what is printed, and on which stream."""

    def show(*records, flags=()):
        for number, content in enumerate(records):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "record.json").write_text(json.dumps(content))
        examples.tables.main([str(tmp_path), *flags])
        return capsys.readouterr()

    return show


def test_best_and_last_over_seeds(show, tmp_path):
    (tmp_path / "other.json").write_text("[]")
    printed = show(
        # A setting that AT does not look at.
        record("at", 0, (0.2, 0.4, 0.3), decay=0.99),
        record("at", 1, (0.2, 0.5, 0.1)),
        record("wake", 0, (0.2, 0.4, 0.4), decay=0.99),
    )
    header, at, wake = rows(printed.out)
    assert header[:4] == ["method", "threat", "network", "seeds"]
    # Sample deviations: 0.1 / √2 and 0.2 / √2.
    assert at == [
        *("at", "ℓ∞ 8/255", "student", "2"),
        *("45.0 ± 7.1", "20.0 ± 14.1", "50.0 ± 0.0", "50.0 ± 0.0"),
        *("4.5 ± 0.7", "2.0 ± 1.4"),
    ]
    assert wake[:6] == ["wake", "ℓ∞ 8/255", "student", "1", "40.0", "40.0"]


def test_radii_at_three_epochs(show):
    printed = show(
        record("at", 0, (0.1, 0.2, 0.15), epsilon=16 / 255),
        record("at"),
        flags=("--by", "epsilon", "--early", "5"),
    )
    small, large = rows(printed.out)[-2:]
    assert small[1:] == [
        *("ℓ∞ 8/255", "1"),
        *("4.0 / 40.0", "4.0 / 40.0", "3.0 / 30.0"),
    ]
    assert large[1] == "ℓ∞ 16/255" and large[-1] == "1.5 / 15.0"


@pytest.mark.parametrize(
    ("method", "first", "second", "expected"),
    [
        ("trades", {"beta": 6.0}, {"beta": 1.0}, ["", ", beta = 1"]),
        (
            "trades",
            {"dataset": "digits"},
            {"dataset": "cifar10"},
            [", dataset = digits", ", dataset = cifar10"],
        ),
        ("trades", {}, {"early_stop": 3}, ["", ", early_stop = 3"]),
        (
            "trades",
            {},
            {"precision": "mixed_float16"},
            [", precision = float32", ", precision = mixed_float16"],
        ),
        # What follows from others is not named, nor β, which WAKE ignores.
        (
            "wake",
            {**RAMP, "epsilon": 0.04, "step_size": 0.01, "beta": 6.0},
            {**RAMP, "epsilon": 0.08, "step_size": 0.02, "beta": 1.0},
            ["", ""],
        ),
    ],
)
def test_rows_that_differ_are_told_apart(
    examples, method, first, second, expected
):
    groups = [[record(method, **first)], [record(method, **second)]]
    expected = [f"{method}{differing}" for differing in expected]
    assert names(examples.tables.results(groups)) == expected
    assert names(examples.tables.over_epochs(groups, 4)) == expected


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
    records = [record("at", 0, **first), record("at", 1, **second)]
    found = examples.tables.groups(records, None)
    assert [len(group) for group in found] == [2]


def test_seeds_are_counted_and_not_files(show):
    again = record("at", 0, (0.2, 0.4, 0.1))
    cut = record("at", 0, (0.9, 0.9, 0.9))
    del cut["table"]
    printed = show(
        record("at"),
        record("at"),
        {**again, "started": "2026-01-02 10:00"},
        {**cut, "started": "2026-01-03 10:00"},
        record("at", 1, (0.2, 0.4, 0.1)),
    ).out
    _, row = rows(printed)
    assert row[3] == "2"
    # Of the finished runs of seed 0 the last one.
    assert row[5] == "10.0 ± 0.0"
    assert "5 records are of 2 runs" in printed


def test_clean_cas_is_not_mixed_with_adversarial(show):
    old, new = (record("standard", seed, (0.0, 0.0, 0.0)) for seed in (0, 1))
    for row in new["table"]:
        row.update(cas=3.0, cas_images="clean")
    for row in old["table"]:
        row["cas"] = 77.0
    printed = show(old, new, record("at")).out
    _, at, standard = rows(printed)
    assert standard[-2:] == ["3.0 †", "3.0 †"]
    assert at[-1] == "3.0"
    assert "† CAS of clean images" in printed


def test_unfinished_runs_are_named(show):
    runs = record("at", 1), record("trades", 3, beta=1.0)
    del runs[0]["table"]
    runs[1]["table"] = None
    printed = show(*runs, flags=("--early", "4")).out
    assert "- at, ℓ∞ 8/255, seed 1 (3 of 12 epochs)" in printed
    assert "- trades, beta = 1, ℓ∞ 8/255, seed 3 (3 of 12 epochs)" in printed
    assert [row[0] for row in rows(printed)[-2:]] == ["at", "trades, beta = 1"]


def test_by_shows_the_value(show):
    runs = (record(method, augment="flip") for method in ("at", "wake"))
    found = names(show(*runs, flags=("--by", "augment")).out)
    assert found == ["at, augment = flip", "wake, augment = flip"]


def test_refuses_a_missing_folder_and_setting(show, tmp_path, capsys):
    for records, flags, message in (
        ([], [str(tmp_path / "nowhere")], "there is nothing at"),
        (
            [record("at")],
            ["--by", "colour"],
            "no run has this setting. Received: 'colour'",
        ),
    ):
        with pytest.raises(SystemExit):
            show(*records, flags=flags)
        assert message in capsys.readouterr().err


def test_one_bad_record_does_not_kill_the_table(show, tmp_path):
    bad = [record("at", seed) for seed in range(5)]
    bad[0]["settings"]["epsilon"] = "8/255"
    bad[1]["settings"]["norm"] = "l1"
    bad[2]["table"] = [{"epoch": "best"}]
    bad[3]["epochs"] = None
    bad[4]["epochs"][0]["val_robust_accuracy"] = "high"
    (tmp_path / "record.json").write_text("[1]")
    printed = show(
        *bad, {"settings": {}}, record("at", 7), flags=("--early", "4")
    )
    assert printed.err.count("is no record of a run") == 7
    assert rows(printed.out)[1][3] == "1"
