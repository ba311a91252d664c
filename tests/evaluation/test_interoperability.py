"""Foolbox and ART attack a Keras classifier, as the documentation shows."""

import keras
import numpy as np
import pytest
from linear_case import data
from linear_case import linear_model
from linear_case import smallest_margins

import keras_wake as kw

EPSILON = 0.06

if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "Foolbox and ART are shown on the TensorFlow backend.",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def case():
    model = linear_model()
    x, y = data(model)
    trainer = kw.WakeModel(model, kw.attacks.PGD(epsilon=EPSILON, steps=3))
    trainer.compile(keras.optimizers.SGD(0.1))
    trainer.fit(x, y, epochs=3, batch_size=20, verbose=0)
    # PGD reaches the optimum of a linear model of few classes.
    robust = smallest_margins(model, x, y, EPSILON) > 0
    return model, x, y, robust.mean()


def test_foolbox(case):
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    import tensorflow as tf

    classifier, x, y, expected = case
    model = foolbox.TensorFlowModel(classifier, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=40)
    samples = tf.convert_to_tensor(x), tf.convert_to_tensor(y, tf.int64)
    _, images, success = attack(model, *samples, epsilons=EPSILON)
    assert np.abs(images.numpy() - x).max() <= EPSILON + 1e-6
    assert 1 - success.numpy().mean() == pytest.approx(expected, abs=0.02)


def test_art(case):
    pytest.importorskip("art", reason="ART is not installed")
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    classifier, x, y, expected = case
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    estimator = TensorFlowV2Classifier(
        model=classifier,
        nb_classes=3,
        input_shape=(4, 4, 1),
        loss_object=loss,
        clip_values=(0, 1),
    )
    attack = ProjectedGradientDescent(
        estimator, np.inf, EPSILON, EPSILON / 4, max_iter=40, verbose=False
    )
    images = attack.generate(x=x, y=y)
    assert np.abs(images - x).max() <= EPSILON + 1e-6
    right = estimator.predict(images).argmax(axis=1) == y
    assert right.mean() == pytest.approx(expected, abs=0.02)
