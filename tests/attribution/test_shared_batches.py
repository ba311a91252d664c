"""The batches of an analysis, shared by processes, which are threads here."""

import concurrent.futures
import threading

import numpy as np
import pytest
from small import data
from small import network

from keras_wake import backend
from keras_wake.attribution.batches import Batch
from keras_wake.attribution.batches import shared_batches

COUNT = 3


@pytest.fixture
def run(monkeypatch):
    """Runs `function(index)` in as many processes, and returns its results."""
    own, sent = threading.local(), [None] * COUNT
    barrier = threading.Barrier(COUNT, timeout=60)

    def gather(model, value):
        sent[own.index] = value
        barrier.wait()
        found = list(sent)
        # Nobody sends the next value before all have read this one.
        barrier.wait()
        return found

    def started(index, function):
        own.index = index
        return function(index)

    monkeypatch.setattr(backend, "processes", lambda model: (own.index, COUNT))
    monkeypatch.setattr(backend, "gather_objects", gather)

    def in_processes(function):
        with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
            runs = [pool.submit(started, n, function) for n in range(COUNT)]
        return runs

    return in_processes


def pairs(batches):
    x, y = data(2 * batches)
    return iter(zip(np.split(x, batches), np.split(y, batches), strict=True))


def analysis(index, done):
    """Notes down who has analysed which batch."""

    def analysed(number, x, labels):
        done.append((number, index))
        logits = np.full((len(x), 3), number)
        return Batch(x, x + 1, labels, logits, logits, logits)

    return analysed


@pytest.mark.parametrize("batches", [1, 2, 3, 7, 9])
def test_every_process_yields_all_batches_in_their_order(run, batches):
    model, done = network(), []

    def found(index):
        shared = shared_batches(model, pairs(batches), analysis(index, done))
        return list(shared)

    for each in run(found):
        for number, (batch, (x, y)) in enumerate(
            zip(each.result(), pairs(batches), strict=True)
        ):
            np.testing.assert_array_equal(batch.images, x)
            np.testing.assert_array_equal(batch.adversarial, x + 1)
            np.testing.assert_array_equal(batch.labels, y)
            assert (batch.logits == number).all()
    assert sorted(done) == [(n, n % COUNT) for n in range(batches)]


def test_the_first_process_takes_all_where_networks_differ(run):
    models, done = [network(seed=n) for n in range(COUNT)], []

    def found(index):
        shared = shared_batches(models[index], pairs(4), analysis(index, done))
        return [int(batch.logits[0, 0]) for batch in shared]

    assert [each.result() for each in run(found)] == [[0, 1, 2, 3]] * COUNT
    assert sorted(done) == [(n, 0) for n in range(4)]


@pytest.mark.parametrize("other", [2, 3, 5])
def test_other_data_are_refused_in_every_process(run, other):
    model = network()

    def found(index):
        given = pairs(4 if index else other)
        return list(shared_batches(model, given, analysis(index, [])))

    for each in run(found):
        with pytest.raises(ValueError, match="same data in the same order"):
            each.result()
