"""What the environment says of several processes, and is refused."""

import json

import keras
import pytest

CLUSTER = {"worker": ["a:1", "b:1"]}
NAMES = (
    "TF_CONFIG",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "chief"),
    [
        ({}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "3"}, True),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, False),
        (
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1",
                "KERAS_DISTRIBUTION_PROCESS_ID": "1",
            },
            False,
        ),
        (
            {
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": CLUSTER,
                        "task": {"type": "worker", "index": "1"},
                    }
                )
            },
            False,
        ),
    ],
)
def test_chief(examples, monkeypatch, variables, chief):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert examples.processes.is_chief() == chief


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TF_CONFIG": "[]"}, r"TF_CONFIG must be a JSON object.*: '\[\]'"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG must be a JSON object"),
        ({"TF_CONFIG": '{"task": 3}'}, "TF_CONFIG must be a JSON object"),
        ({"TF_CONFIG": '{"task": {"index": "x"}}'}, "index of the task in TF_"),
        (
            {"SLURM_STEP_NUM_TASKS": "abc"},
            "SLURM_STEP_NUM_TASKS must be a whole number. Received: 'abc'",
        ),
        (
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1",
                "KERAS_DISTRIBUTION_PROCESS_ID": "first",
            },
            "KERAS_DISTRIBUTION_PROCESS_ID must be a whole number",
        ),
    ],
)
def test_variables_that_make_no_sense_are_named(
    examples, start, tmp_path, monkeypatch, capsys, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        examples.processes.is_chief()
    with pytest.raises(SystemExit) as stop:
        start(tmp_path / "run")
    assert stop.value.code == 2
    assert next(iter(variables)).split("_")[0] in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES[-3:])
def test_variables_of_jax_are_refused_elsewhere(
    examples, start, tmp_path, monkeypatch, capsys, name
):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX joins the processes")
    monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as stop:
        start(tmp_path / "run")
    assert stop.value.code == 2
    assert f"one of several processes ({name})" in capsys.readouterr().err
    assert not (tmp_path / "run" / "record.json").exists()
