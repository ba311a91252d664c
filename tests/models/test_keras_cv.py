"""A KerasCV backbone and KerasCV augmentation in training with WAKE."""

import keras
import numpy as np
import pytest

import keras_wake as kw

tf = pytest.importorskip("tensorflow", reason="KerasCV needs TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("KerasCV is used on TensorFlow", allow_module_level=True)
keras_cv = pytest.importorskip(
    "keras_cv", reason="KerasCV is not installed (extra `cv`)"
)

CLASSES = 3
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


def bytes_and_labels(count=16):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(count, dtype="int32") % CLASSES


def augmented(images, labels, batch_size=8):
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

    data = tf.data.Dataset.from_tensor_slices((images, labels))
    return data.batch(batch_size).map(augment)


def test_head_is_found_and_the_matrix_is_that_of_the_features():
    classifier = wrapped_backbone()
    head = kw.attribution.find_head(classifier)
    assert head is classifier.get_layer("head")
    images, labels = bytes_and_labels()
    x = (images / 255).astype("float32")
    matrix = kw.attribution.correlation_matrix(classifier, (x, labels))
    features = keras.Model(classifier.input, head.input)(x, training=False)
    features = features.numpy().astype("float64")
    kernel = head.kernel.numpy()
    vectors = np.stack(
        [features[labels == k].mean(0) * kernel[:, k] for k in range(CLASSES)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Cosines of float32 features.
    np.testing.assert_allclose(matrix, vectors @ vectors.T, atol=1e-5)


def test_trains_with_wake_on_augmented_images(tmp_path):
    images, labels = bytes_and_labels()
    data = augmented(images, labels)
    x, y = (np.concatenate(part) for part in zip(*data, strict=True))
    assert x.min() >= 0 and x.max() <= 1
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)
    # CutMix has mixed classes, and the images are no longer what they were.
    assert ((y > 0.01).sum(axis=1) > 1).any()
    assert np.abs(x - images / 255).max() > 0.1

    classifier = wrapped_backbone()
    start = classifier.get_weights()
    model = kw.WakeModel(
        classifier,
        ATTACK,
        eval_attack=ATTACK,
        schedule=kw.schedules.DistillationRamp(1, 2, final=0.5),
    )
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    validation = ((images / 255).astype("float32"), labels)
    attribution = kw.CrossClassAttribution()
    history = model.fit(
        data,
        validation_data=validation,
        epochs=2,
        verbose=0,
        callbacks=[kw.EMATeacher(decay=0.5), attribution],
    ).history
    assert history["kd_weight"] == [0.0, 0.5]
    assert np.isfinite(history["loss"]).all()
    assert attribution.correlation.shape == (CLASSES, CLASSES)
    assert history["val_cas"][-1] == pytest.approx(attribution.cas)
    for network in (model.classifier, model.teacher):
        weights = network.get_weights()
        changes = [
            np.abs(new - old).max()
            for new, old in zip(weights, start, strict=True)
        ]
        assert np.isfinite(changes).all()
        # All but the biases of convolutions before batch norm, which have
        # no gradient.
        assert np.mean(np.array(changes) > 1e-6) > 0.75

    model.robust_classifier.save(tmp_path / "robust.keras")
    loaded = keras.saving.load_model(tmp_path / "robust.keras")
    np.testing.assert_allclose(
        loaded(validation[0], training=False),
        model.teacher(validation[0], training=False),
        atol=1e-6,
    )
