"""A KerasCV backbone and KerasCV augmentation in training with WAKE."""

import keras
import numpy as np
import pytest
from small import wake

import keras_wake as kw

tf = pytest.importorskip("tensorflow", reason="KerasCV needs TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("KerasCV is used on TensorFlow", allow_module_level=True)
keras_cv = pytest.importorskip(
    "keras_cv", reason="KerasCV is not installed (extra `cv`)"
)

CLASSES = 3
BYTES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
IMAGES = np.float32(BYTES / 255)
LABELS = np.arange(16, dtype="int32") % CLASSES
ATTACK = kw.attacks.PGD(epsilon=8 / 255, steps=2)


def wrapped_backbone():
    """A small MobileNetV3 of KerasCV between normalisation and a head."""
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(2.0, -1.0)(images)
    x = keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[1, 4],
        stackwise_filters=[8, 16],
        stackwise_kernel_size=[3, 3],
        stackwise_stride=[1, 2],
        stackwise_se_ratio=[None, 0.25],
        stackwise_activation=["relu", "hard_swish"],
        include_rescaling=False,
        input_shape=(32, 32, 3),
    )(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(CLASSES, name="head")(x))


def augmented(images, labels):
    """Flips, RandAugment and CutMix, in [0, 1] with mixed labels."""
    flip = keras_cv.layers.RandomFlip("horizontal", seed=1)
    randaugment = keras_cv.layers.RandAugment(
        value_range=(0, 1), augmentations_per_image=2, seed=2
    )
    cutmix = keras_cv.layers.CutMix(seed=3)

    def augment(images, labels):
        batch = {
            "images": tf.cast(images, "float32") / 255.0,
            "labels": tf.one_hot(labels, CLASSES),
        }
        batch = cutmix(randaugment(flip(batch, training=True)), training=True)
        return tf.clip_by_value(batch["images"], 0, 1), batch["labels"]

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    return dataset.batch(8).map(augment)


def test_head_is_found_and_the_matrix_is_that_of_the_features():
    classifier = wrapped_backbone()
    head = kw.attribution.find_head(classifier)
    assert head is classifier.get_layer("head")
    matrix = kw.attribution.correlation_matrix(classifier, (IMAGES, LABELS))
    features = keras.Model(classifier.input, head.input)(IMAGES, training=False)
    features = features.numpy().astype("float64")
    kernel = head.kernel.numpy()
    vectors = np.stack(
        [features[LABELS == k].mean(0) * kernel[:, k] for k in range(CLASSES)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Cosines of float32 features.
    np.testing.assert_allclose(matrix, vectors @ vectors.T, atol=1e-5)


def test_trains_with_wake_on_augmented_images(tmp_path):
    batches = augmented(BYTES, LABELS)
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert x.min() >= 0 and x.max() <= 1
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)
    # CutMix has mixed classes, and the images are no longer what they were.
    assert ((y > 0.01).sum(axis=1) > 1).any()
    assert np.abs(x - IMAGES).max() > 0.1

    classifier = wrapped_backbone()
    start = classifier.get_weights()
    schedule = kw.schedules.DistillationRamp(1, 2, final=0.5)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model = wake(classifier, ATTACK, optimizer, schedule=schedule)
    attribution = kw.CrossClassAttribution()
    history = model.fit(
        batches,
        validation_data=(IMAGES, LABELS),
        epochs=2,
        verbose=0,
        callbacks=[kw.EMATeacher(decay=0.5), attribution],
    ).history
    assert history["kd_weight"] == [0.0, 0.5]
    assert np.isfinite(history["loss"]).all()
    assert attribution.correlation.shape == (CLASSES, CLASSES)
    # A sum of six cosines in float32, which may be near 0.
    cas = pytest.approx(attribution.cas, rel=1e-6, abs=1e-6)
    assert history["val_cas"][-1] == cas
    for network in (model.classifier, model.teacher):
        pairs = zip(network.get_weights(), start, strict=True)
        changes = [np.abs(new - old).max() for new, old in pairs]
        assert np.isfinite(changes).all()
        # All but the biases of convolutions before batch norm, which have
        # no gradient.
        assert np.mean(np.array(changes) > 1e-6) > 0.75

    model.robust_classifier.save(tmp_path / "robust.keras")
    loaded = keras.saving.load_model(tmp_path / "robust.keras")
    np.testing.assert_allclose(
        loaded(IMAGES, training=False),
        model.teacher(IMAGES, training=False),
        atol=1e-6,
    )
