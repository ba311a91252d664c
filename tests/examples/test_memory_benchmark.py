"""The benchmark of memory: what it reads, and a small run of it."""

import json
import pathlib
import types

import keras
import pytest
from small import output_of

MEMORY = pathlib.Path(__file__).parents[2] / "benchmarks" / "memory.py"
BACKEND = keras.backend.backend()
# As XLA writes it.
PLAN = """BufferAssignment:
allocation 0: size 400, parameter 0, shape |f32[100]| at ShapeIndex {}:
 value: <1 arg0.1 @0> (size=400,offset=0): f32[100]{0}
allocation 1: size 24, maybe-live-out:
 value: <2 tuple @0> (size=24,offset=0): (f32[100]{0})
allocation 2: size 7, constant:
allocation 3: size 9, thread-local:
allocation 4: size 5000, preallocated-temp:
 value: <3 add @0> (size=4000,offset=1000): f32[1000]{0}
"""


def test_what_xla_allocates(load):
    assert load("memory").allocated(PLAN) == 5024


def test_what_variables_need(load):
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    count = keras.Variable(0, dtype="int32", trainable=False)
    # Three times two weights, two biases and a number.
    variables = [*network.variables, count]
    assert load("memory").bytes_of(variables) == 4 * (6 + 2 + 1)


def test_checkpointing_and_both_attacks_are_compiled(load):
    memory = load("memory")
    args = types.SimpleNamespace(
        backends=["jax"], settings=[("net", 8)], parts=[*memory.PARTS]
    )
    found = [tuple(spec.values()) for spec in memory.wanted(args)]
    assert len(found) == len(set(found)) == 9
    assert ("jax", "net", 8, False, "attack", 2) in found
    assert ("jax", "net", 8, True, "at", 10) in found


@pytest.mark.slow
def test_the_attack_keeps_no_history(tmp_path):
    if BACKEND == "torch":
        pytest.skip("PyTorch has no plan")
    output = tmp_path / "memory.json"
    command = [
        *(MEMORY, "--backends", BACKEND, "--settings", "wide_resnet10_1:4"),
        *("--parts", "AT", "attack", "attack, 2 steps", "training pass"),
        *("--output", output),
    ]
    printed = output_of(*command)
    found = json.loads(output.read_text())["measurements"]
    assert len(found) == 7
    assert all("error" not in each for each in found)
    sizes = {
        (
            each["method"],
            each["attack_steps"],
            each["gradient_checkpointing"],
        ): (each["allocated"])
        for each in found
    }
    # A history of eight more steps would have eight more batches of images. JAX
    # plans two more.
    batch = 4 * 32 * 32 * 3 * 4
    two, ten = sizes["attack", 2, False], sizes["attack", 10, False]
    assert abs(ten - two) <= (3 * batch if BACKEND == "jax" else 1024)
    # The weights are moved in place, so a step needs no second copy of them,
    # and the attack runs before the training pass, in the same memory.
    assert sizes["at", 10, False] < 1.1 * sizes["standard", 10, False]
    assert sizes["at", 10, True] < 0.8 * sizes["at", 10, False]
    assert f"| wide_resnet10_1, 4 | {BACKEND}" in printed
    # What is there is kept.
    assert output_of(*command, "--resume", timeout=60) == printed
