"""What the environment says of several processes, and is refused."""

import json

import keras
import pytest

WORKERS = {"worker": ["a:1", "b:1"]}
SECOND = {"cluster": WORKERS, "task": {"type": "worker", "index": "1"}}
JAX = [
    f"KERAS_DISTRIBUTION_{name}"
    for name in ("JOB_ADDRESSES", "PROCESS_ID", "NUM_PROCESSES")
]
SLURM = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
TORCH = ("RANK", "WORLD_SIZE")
NAMES = ("TF_CONFIG", *SLURM, *TORCH, *JAX)
# Two processes of `torchrun`, which runs in two tasks of SLURM.
NESTED = {SLURM[0]: "2", SLURM[1]: "0", TORCH[0]: "1", TORCH[1]: "4"}


@pytest.fixture
def given(monkeypatch):
    """Sets variables of the environment, and no others of this kind."""

    def given(variables):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return given


@pytest.mark.parametrize(
    ("variables", "chief"),
    [
        ({}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "3"}, True),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, False),
        ({JAX[0]: "a:1", JAX[1]: "1"}, False),
        ({"TF_CONFIG": json.dumps(SECOND)}, False),
        ({TORCH[0]: "1", TORCH[1]: "2"}, False),
        ({TORCH[0]: "0", TORCH[1]: "2"}, True),
        ({TORCH[1]: "2"}, True),
        (NESTED, False),
    ],
)
def test_chief(examples, given, variables, chief):
    given(variables)
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
    examples, refused, tmp_path, given, variables, message
):
    given(variables)
    with pytest.raises(ValueError, match=message):
        examples.processes.is_chief()
    assert next(iter(variables)).split("_")[0] in refused(tmp_path / "run")


@pytest.mark.parametrize(
    ("backend", "variables", "named"),
    [
        ("torch", NESTED, []),
        ("torch", {SLURM[0]: "2"}, ["SLURM"]),
        ("tensorflow", NESTED, []),
        ("tensorflow", {TORCH[0]: "0", TORCH[1]: "2"}, ["RANK"]),
        ("jax", {TORCH[0]: "0", TORCH[1]: "2"}, ["RANK"]),
        ("jax", {**NESTED, JAX[0]: "a:1"}, []),
    ],
)
def test_processes_that_a_backend_does_not_join(
    examples, given, backend, variables, named
):
    given(variables)
    assert examples.processes.not_joined(backend) == named


@pytest.mark.parametrize("name", JAX)
def test_variables_of_jax_are_refused_elsewhere(refused, tmp_path, given, name):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX joins the processes")
    given({name: "1"})
    assert f"one of several processes ({name})" in refused(tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()
