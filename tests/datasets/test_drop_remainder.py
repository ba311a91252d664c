"""The last, smaller batch of training, for which XLA would compile again."""

from typing import ClassVar

import keras
import pytest
from image_batches import assert_same_batches
from image_batches import joined
from image_batches import listed
from image_batches import on_tensorflow
from image_batches import random_data
from image_batches import SIZE
from image_batches import training
from small import assert_same
from small import Interrupt
from small import wake

import keras_wake as kw
from keras_wake.datasets.tensorflow_pipeline import as_dataset


@pytest.fixture
def compiled(monkeypatch):
    """Says whether XLA compiles the steps, as it would on a GPU."""

    def set_compiled(pays):
        monkeypatch.setattr("keras_wake.backend.jit_by_default", lambda: pays)

    return set_compiled


def sizes(batches):
    return [len(labels) for _, labels in listed(batches)]


def test_what_is_left_are_the_same_batches():
    whole, dropped = training(), training(drop_remainder=True)
    for _ in range(3):
        assert_same_batches(listed(dropped), listed(whole)[:3])
    assert dropped.epoch_counter.epoch == 3
    resumed = training(drop_remainder=True, epoch=2)
    again = training(drop_remainder=True)
    *_, third = [listed(again) for _ in range(3)]
    assert_same_batches(listed(resumed), third)


def test_other_images_are_left_out_in_each_epoch():
    batches = training(drop_remainder=True)
    missing = [
        set(range(SIZE)) - set(joined(listed(batches))[1].tolist())
        for _ in range(3)
    ]
    assert [len(part) for part in missing] == [2, 2, 2]
    assert len(set.union(*missing)) > 2


@pytest.mark.parametrize(
    ("count", "compiled_sizes"),
    [
        (48, [16, 16, 16]),
        (50, [16, 16, 16]),
        # 6 of 54 images would be more than a tenth.
        (53, [16, 16, 16]),
        (54, [16, 16, 16, 6]),
        # One batch is one shape.
        (10, [10]),
    ],
)
def test_default(compiled, count, compiled_sizes):
    batches = training(random_data(count), drop_remainder=None)
    compiled(True)
    assert sizes(batches) == compiled_sizes
    assert len(batches) == len(compiled_sizes)
    compiled(False)
    assert sum(sizes(batches)) == count


@on_tensorflow
def test_tf_data_counts_shorter_passes():
    of_numpy = training(drop_remainder=True)
    of_tf = as_dataset(training(drop_remainder=True))
    assert len(of_tf) == 3
    for _ in range(3):
        assert_same_batches(listed(of_tf), listed(of_numpy))


@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 1), (2, 2)])
def test_shares_of_whole_batches(shard, processes, devices):
    data = random_data(55)
    whole = listed(training(data))[:3]
    shares = []
    for process in range(processes):
        shard(process, processes, devices)
        shares.append(listed(training(data, drop_remainder=True)))
    for index, expected in enumerate(whole):
        parts = [share[index] for share in shares]
        assert_same_batches([joined(parts)], [expected])
    assert {len(share) for share in shares} == {3}


# What `load` returns, on each backend.


def load(**arguments):
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    return kw.datasets.load("digits", batch_size=64, **arguments)


def test_load_leaves_out_by_default_where_steps_are_compiled(compiled):
    by_default = load().train
    xla = keras.backend.backend() == "jax"  # Tests have no GPU.
    assert sizes(by_default) == [64] * 20 + [14] * (not xla)
    compiled(True)
    assert sizes(load().train) == [64] * 20
    assert sizes(load(drop_remainder=False).train) == [64] * 20 + [14]
    compiled(False)
    assert sizes(load().train) == [64] * 20 + [14]
    assert sizes(load(drop_remainder=True).train) == [64] * 20


def test_load_leaves_out_nothing_of_validation_and_test(compiled):
    compiled(True)
    splits = load(drop_remainder=True)
    for name, size in (("validation", 144), ("test", 359)):
        assert sum(sizes(getattr(splits, name))) == size


def test_load_refuses_what_leaves_nothing():
    with pytest.raises(
        ValueError, match=r"The 50 .* fewer than a batch.*batch_size=64"
    ):
        load(limit=50, drop_remainder=True)
    with pytest.raises(TypeError, match="`drop_remainder` must be True or"):
        load(drop_remainder=1)


def flat_network(*layers):
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Flatten(), *layers, keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *hidden])


def test_a_resumed_run_sees_the_same_batches(tmp_path):
    def trained(folder, *callbacks):
        model = wake(flat_network())
        backup = kw.BackupAndRestore(tmp_path / folder)
        batches = load(limit=134, drop_remainder=True).train
        model.fit(batches, epochs=3, verbose=0, callbacks=[*callbacks, backup])
        return model.get_weights()

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("killed", Interrupt(1))
    assert_same(trained("killed"), whole)


class Seen(keras.layers.Layer):
    """Notes the batch sizes for which a step is traced."""

    sizes: ClassVar[set] = set()

    def call(self, x):
        self.sizes.add(x.shape[0])
        return x


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="JAX traces for each shape"
)
@pytest.mark.parametrize(
    ("drop_remainder", "traced"), [(None, {64}), (False, {64, 6})]
)
def test_one_step_is_compiled(drop_remainder, traced):
    train = load(limit=134, drop_remainder=drop_remainder).train
    model = wake(flat_network(Seen()))
    Seen.sizes.clear()
    model.fit(train, epochs=2, verbose=0)
    assert Seen.sizes == traced
