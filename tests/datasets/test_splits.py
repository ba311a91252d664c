"""Stratified samples, over random class sizes."""

import numpy as np
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_wake.datasets.splits import stratified_sample


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    keep=st.integers(0, 1),
    seed=st.integers(0, 100),
    data=st.data(),
)
def test_shares_are_proportional_and_leave_what_is_kept(
    sizes, keep, seed, data
):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(labels)
    count = data.draw(st.integers(0, len(labels) - keep * len(sizes)))
    chosen = stratified_sample(labels, count, np.random.default_rng(seed), keep)
    assert len(chosen) == count
    assert np.all(np.diff(chosen) > 0)
    shares = np.bincount(labels[chosen], minlength=len(sizes))
    quotas = count * np.array(sizes) / len(labels)
    assert np.all(shares <= np.array(sizes) - keep)
    if not keep:
        assert np.all(np.abs(shares - quotas) < 1)


def test_is_random_and_reproducible():
    labels = np.repeat([0, 1], 50)
    first, same, other = (
        stratified_sample(labels, 20, np.random.default_rng(seed)).tolist()
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other
