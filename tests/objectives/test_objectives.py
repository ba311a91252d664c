"""Objectives: found by name, computed as stated, refused when unknown."""

import keras
import numpy as np
import pytest
from scipy import special

from keras_wake import objectives

NAMED = [
    ("at", objectives.AdversarialTraining, ("adversarial",)),
    ("standard", objectives.Standard, ("clean",)),
]


@pytest.mark.parametrize(("name", "kind", "inputs"), NAMED)
def test_are_found_by_name_and_restored_from_their_config(name, kind, inputs):
    objective = objectives.get(name)
    assert objective.name == name and objective.inputs == inputs
    assert objectives.get(objective) is objective
    again = kind.from_config(objective.get_config())
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(objective)
    )
    assert type(objective) is type(again) is type(loaded) is kind


@pytest.mark.parametrize(("name", "kind", "inputs"), NAMED)
def test_loss_is_cross_entropy_of_the_images_it_names(name, kind, inputs):
    rng = np.random.default_rng(0)
    logits = {
        images: rng.normal(size=(5, 3)).astype("float32")
        for images in ("clean", "adversarial")
    }
    labels = rng.dirichlet(np.ones(3), 5).astype("float32")
    seen = logits[inputs[0]].astype("float64")
    expected = -(labels * special.log_softmax(seen, axis=1)).sum(1)
    # Float32 against float64.
    np.testing.assert_allclose(kind().loss(labels, logits), expected, rtol=1e-5)


@pytest.mark.parametrize("identifier", ["robust", "", 1, None, object])
def test_refuses_an_unknown_objective(identifier):
    with pytest.raises(
        ValueError,
        match=r"`objective` must be one of 'at'.*'standard'.*Received: "
        r"objective=.*An instance of `keras_wake\.objectives\.Objective`",
    ):
        objectives.get(identifier)


def test_an_objective_must_define_its_loss():
    class Silent(objectives.Objective):
        pass

    with pytest.raises(TypeError, match="`Silent` must define `loss"):
        objectives.get(Silent()).loss(None, {})


@pytest.mark.parametrize("name", ["at", "standard", "trades", "mart", "awp"])
def test_refuses_class_numbers_and_logits_of_another_batch(name):
    objective = objectives.get(name)
    logits = {kind: np.zeros((3, 3), "float32") for kind in objective.inputs}
    with pytest.raises(ValueError, match=r"one_hot\(labels, num_classes\)"):
        objective.loss(np.arange(3), logits)
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(3, 3\)"):
        objective.loss(np.eye(3)[:1], logits)
