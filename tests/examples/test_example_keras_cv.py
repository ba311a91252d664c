"""Network and augmentation of KerasCV in the examples."""

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
from run_files import save_images

import keras_wake as kw


def skip_without_keras_cv():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("KerasCV is used on TensorFlow")
    pytest.importorskip("keras_cv", reason="KerasCV is not installed")


def test_keras_cv_says_how_to_install_it(examples, monkeypatch):
    networks = examples.networks
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"Set KERAS_BACKEND=tensorflow\."):
        networks.import_keras_cv("--model keras_cv_resnet18")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[cv\]'"):
        networks.import_keras_cv("--model keras_cv_resnet18")


def test_network_is_resnet18_between_rescaling_and_head(examples, tmp_path):
    skip_without_keras_cv()
    made = examples.networks.network("keras_cv_resnet18", 10, (32, 32, 3))
    (backbone,) = (layer for layer in made.layers if "back" in layer.name)
    # As many as KerasCV says of its resnet18_v2.
    assert backbone.count_params() == 11_183_488
    assert kw.attribution.find_head(made) is made.get_layer("head")
    made.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    x = np.random.default_rng(0).random((2, 32, 32, 3)).astype("float32")
    logits = made(x, training=False)
    assert logits.shape == (2, 10)
    np.testing.assert_allclose(loaded(x, training=False), logits, atol=1e-5)


@pytest.mark.slow  # Minutes on two cores.
def test_keras_cv_trains(examples, start, tmp_path):
    skip_without_keras_cv()
    save_images(tmp_path / "data", 10, 32, train=6, test=2)
    start(
        tmp_path / "run",
        *(f"--data-dir={tmp_path / 'data'}", "--method=wake"),
        *("--model=keras_cv_resnet18", "--augment=keras_cv"),
        *("--limit=20", "--test-limit=10", "--epochs=2", "--validation=20"),
        example="cifar10",
    )
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert len(record["epochs"]) == 2
    assert record["settings"]["model"] == "keras_cv_resnet18"
    keras.models.load_model(tmp_path / "run" / "best.keras")


def test_rand_augment_changes_images_and_keeps_the_count_of_epochs(examples):
    skip_without_keras_cv()
    import tensorflow as tf

    x = np.random.default_rng(0).random((4, 16, 16, 3)).astype("float32")
    train = tf.data.Dataset.from_tensor_slices((x, np.arange(4))).batch(2)
    train.epoch_counter = "counter"
    splits = kw.datasets.Splits(
        train, None, None, ("a", "b"), (16, 16, 3), 4, 0, 0
    )
    augmented = examples.networks.with_rand_augment(splits, seed=0).train
    assert augmented.epoch_counter == "counter"
    assert len(augmented) == 2
    images = np.concatenate([batch[0] for batch in augmented])
    assert images.min() >= 0 and images.max() <= 1
    assert np.abs(images - x).max() > 0.1
    grey = dataclasses.replace(splits, input_shape=(16, 16, 1))
    with pytest.raises(ValueError, match="three channels"):
        examples.networks.with_rand_augment(grey, seed=0)
