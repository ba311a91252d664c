"""CutMix: boxes, partners, labels, and that nothing else decides on them."""

import keras
import numpy as np
import pytest
from image_batches import assert_same_batches
from image_batches import joined
from image_batches import listed
from image_batches import random_data
from image_batches import SIZE
from image_batches import training
from scipy import special
from scipy import stats
from small import assert_same

import keras_wake as kw
from keras_wake import datasets
from keras_wake.datasets.augmentation import cutmix_draws
from keras_wake.datasets.augmentation import symmetric_beta

pytest.importorskip("sklearn", reason="the digits come from scikit-learn")

# Of four images of 32x48 pixels in epoch 2 of seed 1.
PARTNERS = [2, 0, 1, 1]
BOXES = [[13, 32, 31, 48], [0, 24, 21, 48], [12, 22, 32, 48], [5, 0, 30, 33]]


def make(cutmix=1.0, **arguments):
    return training(num_classes=SIZE, cutmix=cutmix, **arguments)


@pytest.mark.parametrize("augment", ["crop_flip", "flip", "none"])
def test_batches_equal_a_reference_made_image_by_image(augment):
    data = random_data(white=16)
    arguments = {"data": data, "augment": augment, "epoch": 3, "seed": 7}
    mixed, labels = joined(listed(make(**arguments)))
    apart, one_hot = joined(listed(make(None, **arguments)))
    order = one_hot.argmax(1)
    augmented = apart[np.argsort(order)]
    partners, boxes, _ = cutmix_draws(SIZE, (8, 11), 1.0, 7, 3)
    assert mixed.dtype == labels.dtype == np.float32
    # A box without a pixel has a probability of 1 %.
    assert ((labels > 0).sum(1) == 2).sum() > SIZE - 8
    for image, label, number in zip(mixed, labels, order, strict=True):
        partner = partners[number]
        top, left, bottom, right = boxes[number]
        box = slice(top, bottom), slice(left, right)
        expected = augmented[number].copy()
        expected[box] = augmented[partner][box]
        np.testing.assert_array_equal(image, expected)
        kept = 1 - (bottom - top) * (right - left) / 88
        wanted = np.zeros(SIZE)
        wanted[number] += kept
        wanted[partner] += 1 - kept
        # Rounding of float32.
        np.testing.assert_allclose(label, wanted, atol=1e-7)


def test_seed_alpha_and_epoch_decide():
    dataset = make()
    first, second, third = (listed(dataset) for _ in range(3))
    # A resumed run sees the batches of the uninterrupted one.
    assert_same_batches(third, listed(make(epoch=2)))
    assert not np.array_equal(first[0][0], second[0][0])
    assert_same_batches(first, listed(make()))
    for other in (make(seed=1), make(2.0), make(None)):
        assert not np.array_equal(first[0][0], listed(other)[0][0])


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0, 50.0])
def test_symmetric_beta_has_its_distribution(alpha):
    u, v = 1 - np.random.default_rng(0).uniform(size=(2, 20_000))
    drawn = symmetric_beta(alpha, u, v)
    # An error of 0.02 in the distribution function gives p below 1e-6.
    test = stats.kstest(drawn, stats.beta(alpha, alpha).cdf)
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e6])
def test_symmetric_beta_at_the_ends(alpha):
    ends = np.array([2.0**-53, 1.0])
    u, v = (part.ravel() for part in np.meshgrid(ends, [0.25, 0.5, 0.75, 1]))
    drawn = symmetric_beta(alpha, u, v)
    assert ((drawn >= 0) & (drawn <= 1)).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_covered_part_is_that_of_cut_boxes(alpha):
    count, height, width = 20_000, 900, 1100
    _, boxes, covered = cutmix_draws(
        count, (height, width), alpha, seed=3, epoch=1
    )
    # The same, simulated with real numbers instead of pixels.
    rng = np.random.default_rng(0)
    half = np.sqrt(1 - rng.beta(alpha, alpha, count)) / 2
    lengths = [
        np.minimum(centre + half, 1) - np.maximum(centre - half, 0)
        for centre in rng.uniform(size=(2, count))
    ]
    assert stats.ks_2samp(covered, lengths[0] * lengths[1]).pvalue > 1e-3
    # Boxes away from the border were not cut: their sides are those drawn.
    top, left, bottom, right = boxes.T
    whole = (top > 0) & (left > 0) & (bottom < height) & (right < width)
    assert 1000 < whole.sum()
    np.testing.assert_allclose(
        ((bottom - top) / height)[whole],
        ((right - left) / width)[whole],
        atol=1 / 900,
    )
    assert ((0 <= top) & (top <= bottom) & (bottom <= height)).all()
    assert ((0 <= left) & (left <= right) & (right <= width)).all()
    np.testing.assert_allclose(
        covered, (bottom - top) * (right - left) / (height * width), rtol=1e-6
    )


def test_every_other_image_is_a_partner_as_often():
    counts = np.zeros((10, 10), int)
    for epoch in range(2000):
        partners, _, _ = cutmix_draws(10, (8, 8), 1.0, seed=0, epoch=epoch)
        counts[np.arange(10), partners] += 1
    assert not np.diag(counts).any()
    others = counts[~np.eye(10, dtype=bool)].reshape(10, 9)
    assert stats.chisquare(others, axis=1).pvalue.min() > 1e-4


def test_boxes_lie_everywhere_and_independently_of_the_partner():
    size = 20_000
    partners, boxes, covered = cutmix_draws(size, (8, 8), 1.0, 0, 0)
    top, left, bottom, right = boxes.T
    # Boxes of one pixel show the centres; in the corners, others are cut down
    # to that.
    single = (bottom - top == 1) & (right - left == 1)
    single &= (top % 7 > 0) & (left % 7 > 0)
    places = np.zeros((8, 8), int)
    np.add.at(places, (top[single], left[single]), 1)
    assert stats.chisquare(places[1:-1, 1:-1].ravel()).pvalue > 1e-4
    steps = (partners - np.arange(size)) % size
    # Five standard deviations of the correlation of independent numbers.
    assert abs(np.corrcoef(steps, covered)[0, 1]) < 5 / np.sqrt(size)
    assert abs(np.corrcoef(top[single], left[single])[0, 1]) < 5 / np.sqrt(
        single.sum()
    )


def test_draws_never_change():
    # Whoever resumes a run or repeats a published one depends on them.
    partners, boxes, covered = cutmix_draws(4, (32, 48), 1.0, seed=1, epoch=2)
    assert partners.tolist() == PARTNERS
    assert boxes.tolist() == BOXES
    top, left, bottom, right = np.transpose(BOXES)
    expected = (bottom - top) * (right - left) / 1536
    np.testing.assert_array_equal(covered, np.float32(expected))
    assert partners.dtype == boxes.dtype == np.int32
    for seed, epoch in ((2, 2), (1, 3)):
        others = cutmix_draws(4, (32, 48), 1.0, seed, epoch)
        assert others[1].tolist() != BOXES


def test_a_single_image_is_its_own_partner():
    splits = datasets.load("digits", limit=1, cutmix=1.0)
    ((images, labels),) = listed(splits.train)
    expected, number = splits.arrays("train")
    np.testing.assert_array_equal(images, expected)
    assert labels.tolist() == np.eye(10)[number].tolist()


def test_load_mixes_the_training_images_alone():
    arguments = {"limit": 60, "batch_size": 16}
    plain = datasets.load("digits", label_mode="categorical", **arguments)
    mixed = datasets.load("digits", cutmix=1.0, **arguments)
    images, labels = joined(listed(mixed.train))
    assert labels.shape == (60, 10) and labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    assert ((labels > 0).sum(1) == 2).any()
    assert not np.array_equal(images, joined(listed(plain.train))[0])
    for name in ("validation", "test"):
        assert_same_batches(
            listed(getattr(mixed, name)), listed(getattr(plain, name))
        )
    assert_same(mixed.arrays("train"), plain.arrays("train"))


def test_refuses_other_than_positive_numbers_and_integer_labels():
    message = r"`cutmix` must be .*Pass None for no Cut"
    for error, values in (
        (ValueError, (0, -1.0, float("nan"))),
        (TypeError, (True, "1")),
    ):
        for cutmix in values:
            with pytest.raises(error, match=message):
                datasets.load("digits", cutmix=cutmix)
    with pytest.raises(ValueError, match=r"label_mode='int', cutmix=1\.0\. L"):
        datasets.load("digits", cutmix=1.0, label_mode="int")


def test_wake_model_trains_on_soft_labels(eagerly):
    splits = datasets.load("digits", limit=60, batch_size=60, cutmix=1.0)
    ((images, labels),) = listed(splits.train)
    splits.set_epoch(0)
    keras.utils.set_random_seed(0)
    small = kw.models.SmallCNN(10, (8, 8, 1), widths=(8,), strides=(2,))
    logits = keras.ops.convert_to_numpy(small(images, training=True))
    expected = -(labels * special.log_softmax(logits, axis=1)).sum(1).mean()
    attack = kw.attacks.FGSM(epsilon=0.0)
    model = kw.WakeModel(small, attack, eval_attack=attack)
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    held_out = splits.validation
    log = model.fit(splits.train, validation_data=held_out, verbose=0).history
    # Two ways of computing a convolution in float32.
    np.testing.assert_allclose(log["loss"], expected, rtol=1e-4)
    x, y = splits.arrays("validation")
    predicted = model.predict(x, verbose=0).argmax(1)
    np.testing.assert_allclose(log["val_accuracy"], (predicted == y).mean())
