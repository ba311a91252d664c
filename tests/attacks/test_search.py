"""The loop of a search: which images it still computes, and what it returns."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from small import network

from keras_wake import backend
from keras_wake.attacks.search import until_found
from keras_wake.utils.types import Tensor

# How many steps each image takes to fall. The last one stands.
NEEDED = np.int32([3, 1, 3, 5, 99])
STEPS = 6


class Given(NamedTuple):
    needed: Tensor


class State(NamedTuple):
    step: Tensor
    found: Tensor
    # Of each image: its own steps, and how many images took part in them.
    taken: Tensor
    images: Tensor


def step(given, state):
    size = ops.shape(given.needed)[0]
    alone = ops.cast(~state.found, "int32")
    taken = state.taken + alone
    return State(
        step=state.step + 1,
        found=taken >= given.needed,
        taken=taken,
        images=state.images + alone * size,
    )


def search(needed):
    zeros = ops.zeros_like(needed)
    start = State(ops.zeros((), "int32"), needed <= 0, zeros, zeros)
    return until_found(
        step,
        Given(needed),
        start,
        STEPS,
        lambda end: ops.stack([end.taken, end.images], axis=1),
    )


def test_images_leave_a_small_batch_as_they_fall():
    model = network()
    run = backend.compile(search, lambda: model)
    # Of another size as well: what is compiled takes both.
    for needed in (NEEDED, np.append(NEEDED, np.int32(0))):
        found = to_numpy(run(ops.convert_to_tensor(needed)))
        taken = np.minimum(needed, STEPS)
        np.testing.assert_array_equal(found[:, 0], taken)
        standing = [np.sum(needed > number) for number in range(STEPS)]
        if backend.jit_by_default():
            # All of them, in each step.
            standing = [len(needed)] * STEPS
        expected = np.cumsum([0, *standing])[taken]
        np.testing.assert_array_equal(found[:, 1], expected)


def test_few_of_many_images_stay_in_the_batch():
    model = network()
    run = backend.compile(search, lambda: model)
    # One of 30 falls, then five, then nearly all.
    needed = np.repeat(np.int32([1, 2, 3, 99]), [1, 5, 20, 4])
    found = to_numpy(run(ops.convert_to_tensor(needed)))
    taken = np.minimum(needed, STEPS)
    np.testing.assert_array_equal(found[:, 0], taken)
    sizes = [30] * STEPS if backend.jit_by_default() else [30, 30, 24, 4, 4, 4]
    np.testing.assert_array_equal(found[:, 1], np.cumsum([0, *sizes])[taken])


def test_a_training_step_keeps_all_images():
    if keras.backend.backend() == "torch":
        assert backend.batches_may_shrink()
        return
    # Its batches have one size, where XLA compiles it.
    assert not backend.batches_may_shrink()
    found = to_numpy(search(ops.convert_to_tensor(NEEDED)))
    taken = np.minimum(NEEDED, STEPS)
    np.testing.assert_array_equal(found, np.stack([taken, 5 * taken], axis=1))
    # All have fallen, and the search ends.
    few = to_numpy(search(ops.convert_to_tensor(NEEDED[:2])))
    np.testing.assert_array_equal(few, [[3, 6], [1, 2]])


def test_chooses_sample_by_sample():
    rng = np.random.default_rng(0)
    for shape in ((4,), (4, 3), (4, 3, 2)):
        new, old = rng.random((2, *shape)).astype("float32")
        which = np.array([True, False, False, True])
        found = to_numpy(
            backend.where_sample(*map(ops.convert_to_tensor, (which, new, old)))
        )
        np.testing.assert_array_equal(found[[0, 3]], new[[0, 3]])
        np.testing.assert_array_equal(found[1:3], old[1:3])
