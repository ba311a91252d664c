"""What the environment says of several processes, and is refused."""

import json

import keras
import pytest

SECOND = json.dumps(
    {
        "cluster": {"worker": ["a:1", "b:1"]},
        "task": {"type": "worker", "index": "1"},
    }
)
JAX = [
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "PROCESS_ID", "NUM_PROCESSES")
]
NAMES = ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", *JAX)


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
        ({JAX[0]: "a:1", JAX[1]: "1"}, False),
        ({"TF_CONFIG": SECOND}, False),
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
        (
            {"TF_CONFIG": '{"task": {"index": "x"}}'},
            "TF_CONFIG must be a JSON object",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "abc"},
            "SLURM_STEP_NUM_TASKS must be a whole number. Received: 'abc'",
        ),
        (
            {JAX[0]: "a:1", JAX[1]: "first"},
            "KERAS_DISTRIBUTION_PROCESS_ID must be a whole number",
        ),
    ],
)
def test_variables_that_make_no_sense_are_named(
    examples, refused, tmp_path, monkeypatch, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        examples.processes.is_chief()
    assert next(iter(variables)).split("_")[0] in refused(tmp_path / "run")


@pytest.mark.parametrize("name", JAX)
def test_variables_of_jax_are_refused_elsewhere(
    refused, tmp_path, monkeypatch, name
):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX joins the processes")
    monkeypatch.setenv(name, "1")
    assert f"one of several processes ({name})" in refused(tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()
