"""Arrays whose batches processes and devices share."""

import zlib

import keras
import numpy as np
import pytest
from small import data
from small import wake

from keras_wake.data.sharding import data_of_all
from keras_wake.data.sharding import shard_arrays
from keras_wake.data.sharding import ShardedArrays
from keras_wake.data.sharding import whole_batches


class Processes:
    """Stands for a model: what this process says, and what others do."""

    def __init__(self, *others):
        self.others = others

    def of_all_processes(self, value):
        return [value, *self.others]


def arrays(count):
    x = np.arange(count, dtype=np.float32)[:, np.newaxis]
    return x, np.arange(count)


def passes(shard, processes, devices, *args, evenly=True):
    """The batches of one pass, joined over the processes."""
    parts = []
    for process in range(processes):
        shard(process, processes, devices, evenly=evenly)
        mine = ShardedArrays(*args)
        parts.append([mine[index] for index in range(len(mine))])
    return [
        tuple(map(np.concatenate, zip(*batches, strict=True)))
        for batches in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (1, 2), (2, 2)])
def test_training_leaves_an_uneven_rest_out(shard, processes, devices):
    found = passes(shard, processes, devices, arrays(22), 8, True)
    multiple = processes * devices
    total = 22 // multiple * multiple
    assert [len(x) for x, _ in found] == [8, 8, total - 16]
    x, y = map(np.concatenate, zip(*found, strict=True))
    np.testing.assert_array_equal(y, np.arange(total))
    np.testing.assert_array_equal(x[:, 0], y)


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (1, 2), (2, 2)])
def test_evaluation_fills_the_last_batch_up_without_weight(
    shard, processes, devices
):
    given = (*arrays(19), np.linspace(1, 2, 19))
    found = passes(shard, processes, devices, given, 8, False)
    x, y, weights = map(np.concatenate, zip(*found, strict=True))
    np.testing.assert_array_equal(y[:19], given[1])
    np.testing.assert_allclose(weights[:19], given[2], rtol=1e-6)
    # Where the rest is even, there is nothing to fill up.
    multiple = processes * devices
    assert len(y) == -(-19 // multiple) * multiple
    assert (weights[19:] == 0).all()
    np.testing.assert_array_equal(x[:, 0], y)


@pytest.mark.parametrize("training", [True, False])
def test_shares_may_be_unequal_but_none_is_empty(shard, training):
    # The last batch has 4 images for 3 processes, then 2 and 1.
    for count, last in ((14, 4), (12, 2), (11, 1)):
        given = (*arrays(count), np.ones(count))
        found = passes(shard, 3, 1, given, 10, training, evenly=False)
        x, y, weights = map(np.concatenate, zip(*found, strict=True))
        np.testing.assert_array_equal(x[:, 0], y)
        if last < 3:
            left = count - last if training else count
            assert len(y) == (10 if training else 13)
        else:
            left = len(y)
        np.testing.assert_array_equal(y[:left], np.arange(left))
        np.testing.assert_array_equal(weights > 0, np.arange(len(y)) < left)
    for process, size in enumerate((1, 1, 2)):
        shard(process, 3, 1, evenly=False)
        assert len(ShardedArrays(arrays(14), 10, training)[1][0]) == size
    with pytest.raises(ValueError, match=r"at least 3.*batch_size=2"):
        len(ShardedArrays(arrays(14), 2, training))


def test_data_sets_of_other_lengths_are_refused(shard):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

    shard(0, 2, 1)
    other = Processes(np.int32(3))
    message = r"same number of batches.*\[4, 3\] batches in `"
    with pytest.raises(ValueError, match=f"{message}x`"):
        shard_arrays(other, {"x": Batches()}, training=True)
    given = {"x": Batches(), "steps_per_epoch": 2}
    shard_arrays(other, given, training=True)
    with pytest.raises(ValueError, match=f"{message}validation_data`"):
        given |= {"validation_data": Batches()}
        shard_arrays(other, given, training=True)
    shard_arrays(other, given | {"validation_steps": 1}, training=True)


def test_every_pass_of_training_has_an_order_that_all_processes_share(shard):
    def epochs(process):
        shard(process, 2, 1)
        seeds = iter((1, 2))
        batches = ShardedArrays(arrays(17), 4, True, lambda: next(seeds))
        return [
            np.concatenate([batches[index][1] for index in range(4)])
            for _ in range(2)
        ]

    one, two = epochs(0), epochs(1)
    for mine, other in zip(one, two, strict=True):
        # The devices cannot divide the last image evenly.
        assert len(mine) == len(other) == 8
        assert len({*mine, *other}) == 16
    assert not np.array_equal(one[0], one[1])


def test_a_process_can_have_whole_batches(shard):
    shard(1, 2, 2)
    batches = ShardedArrays(arrays(10), 4, False)
    whole = list(whole_batches(batches))
    assert [y.tolist() for _, y in whole] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    # The batches themselves are shared as before.
    assert batches[0][1].tolist() == [2, 3]
    other = arrays(4)
    assert whole_batches(other) is other


def test_replaces_the_arrays_of_fit(shard):
    shard(1, 2, 1)
    x, y = arrays(10)
    sent = []

    class Model(Processes):
        def of_all_processes(self, value):
            sent.append(value.tolist())
            return [value, value]

    given = {"x": x, "y": y, "batch_size": 4, "shuffle": False}
    given |= {"validation_split": 0.2, "epochs": 3}
    shard_arrays(Model(), given, training=True)
    assert set(given) == {"x", "shuffle", "epochs", "validation_data"}
    np.testing.assert_array_equal(given["x"][0][1], [2, 3])
    np.testing.assert_array_equal(given["validation_data"][0][1], [9])
    assert sent == [
        [len(part), zlib.crc32(part.tobytes()) & 0x7FFFFFFF]
        for part in (y[:8], y[8:])
    ]


def test_leaves_data_sets_and_one_device_alone(shard):
    x, y = arrays(4)
    given = {"x": x, "y": y, "batch_size": 3}
    shard(0, 1, 1)
    shard_arrays(Processes(), given, training=True)
    assert given["x"] is x and given["y"] is y

    own = keras.utils.PyDataset()
    shard(0, 2, 1)
    given = {"x": own}
    shard_arrays(Processes(), given, training=True)
    assert given == {"x": own}


def test_what_cannot_be_shared_is_refused(shard):
    shard(0, 2, 1)
    x, y = arrays(6)
    other = Processes(np.array([5, 123], np.int32))
    # A part instead of the whole.
    with pytest.raises(ValueError, match=r"same arrays.*lengths \[6, 5\]"):
        shard_arrays(other, {"x": x, "y": y}, training=True)
    shard(0, 1, 2)
    with pytest.raises(ValueError, match="same length"):
        shard_arrays(Processes(), {"x": x, "y": y[:5]}, training=False)
    given = {"x": x, "y": y, "batch_size": 3}
    shard_arrays(Processes(), given, training=True)
    with pytest.raises(ValueError, match=r"multiple of 2.*batch_size=3"):
        len(given["x"])
    with pytest.raises(ValueError, match="fewer than the 2 devices"):
        len(ShardedArrays(arrays(1), 4, True))


def test_fit_and_evaluate_on_arrays_that_cannot_be_divided(shard, eagerly):
    model = wake()
    x, y = data(21)
    alone = model.evaluate(x, y, verbose=0, return_dict=True)
    shard(0, 1, 2)
    found = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    for name, value in alone.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    log = model.fit(x, y, batch_size=8, validation_split=0.3, verbose=0)
    assert "val_robust_accuracy" in log.history
    # 14 images remain for training.
    assert int(keras.ops.convert_to_numpy(model.train_steps)) == 2


def test_each_process_gets_all_images(shard):
    x, y = data()
    batches = ShardedArrays((x, y), 4, False)
    # One process with several devices leaves no image out either.
    for sharers in ((0, 1, 2), (1, 2, 1)):
        shard(*sharers)
        whole = data_of_all(Processes(), batches, "Monitor()")
        found = np.concatenate([whole[index][1] for index in range(3)])
        np.testing.assert_array_equal(found, y)
    pair = (x, y)
    assert data_of_all(Processes(), pair, "Monitor()") is pair
    with pytest.raises(ValueError, match="with other labels, of lengths"):
        data_of_all(Processes(np.array([12, 1])), pair, "Monitor()")
    with pytest.raises(ValueError, match=r"`Monitor\(\)` needs the same"):
        data_of_all(Processes(), [pair], "Monitor()")
    shard(0, 1, 1)
    assert data_of_all(Processes(), batches, "Monitor()") is batches
