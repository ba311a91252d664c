"""Re-estimated batch norm: what is refused leaves the network as it was.

The values are compared in `tests/callbacks/test_ema_teacher.py`.
"""

import numpy as np
import pytest
from small import assert_same
from small import wake

import keras_wake as kw
from keras_wake.models import reestimate_batch_norm


def images(count=12, low=0.0, high=1.0):
    x = np.random.default_rng(0).uniform(low, high, (count, 6, 6, 1))
    return x.astype("float32")


def batches(*parts):
    return [(part, np.zeros(len(part))) for part in parts]


def spoilt(value):
    x = images()
    x[3, 2, 2, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (spoilt(np.nan), r"1 image\(s\) of batch 2 contain NaN"),
        (spoilt(np.inf), r"1 image\(s\) of batch 2 contain NaN"),
        (spoilt(1.5), r"1 image\(s\) of batch 2 lie outside .*\[0, 1\]"),
        (255 * images(), r"12 image\(s\) of batch 2 lie outside"),
        (images()[..., [0, 0]], ""),
    ],
)
def test_bad_images_leave_the_network_as_it_was(classifier, x, message):
    before = classifier.get_weights()
    with pytest.raises(ValueError, match=message):
        reestimate_batch_norm(classifier, batches(images(), x))
    assert_same(classifier.get_weights(), before)
    assert classifier.get_layer("norm").momentum == 0.99


def test_other_bounds(classifier):
    x = images(low=-1.0)
    before = classifier.get_layer("norm").get_weights()[2]
    with pytest.raises(ValueError, match="lie outside"):
        reestimate_batch_norm(classifier, batches(x))
    reestimate_batch_norm(classifier, batches(x), bounds=(-1.0, 1.0))
    after = classifier.get_layer("norm").get_weights()[2]
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "callback",
    [
        lambda data: kw.EMATeacher(0.5, batch_norm="reestimate", data=data),
        lambda data: kw.StochasticWeightAveraging(1, data=data),
    ],
)
def test_a_teacher_is_estimated_within_the_bounds_of_the_attack(
    classifier, labels, callback
):
    x = images(10, low=-1.0)
    model = wake(classifier, kw.attacks.FGSM(epsilon=0.1, bounds=(-1.0, 1.0)))
    model.fit(x, labels, verbose=0, callbacks=[callback((x, labels))])
    statistics = model.teacher.get_layer("norm").get_weights()[2]
    assert np.isfinite(statistics).all()


@pytest.mark.parametrize("network", ["net.keras", None])
def test_refuses_what_is_no_model(network):
    with pytest.raises(TypeError, match=r"`network` must be a `keras\.Model`"):
        reestimate_batch_norm(network, batches(images()))
