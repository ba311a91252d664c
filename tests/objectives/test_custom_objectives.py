"""Objectives of one's own: what they must declare, and what they return."""

import keras
import numpy as np
import pytest
from keras import ops
from small import data
from small import fit
from small import network
from small import wake

import keras_wake as kw


class Squares(kw.objectives.Objective):
    """Squared errors of the clean logits, reduced in one way or another."""

    name = "squares"
    inputs = ("clean",)

    def __init__(self, reduce=None, reads="clean"):
        self.reduce, self.reads = reduce, reads

    def loss(self, labels, logits):
        losses = ops.sum(ops.square(logits[self.reads] - labels), axis=-1)
        return losses if self.reduce is None else self.reduce(losses)


def train(objective, *callbacks, **arguments):
    model = wake(objective=objective, eval_attack=None)
    fit(model, *callbacks, count=8, batch_size=8, **arguments)
    return model.classifier.get_weights()


def test_a_loss_per_sample_trains_on_its_mean():
    (kernel, bias), (x, y) = network().get_weights(), data(8)
    flat = x.reshape(len(x), -1)
    errors = 2 * (flat @ kernel + bias - np.eye(3)[y]) / len(x)
    found = train(Squares())
    # One step of SGD at 0.1, in float32.
    np.testing.assert_allclose(found[0], kernel - 0.1 * flat.T @ errors, 1e-4)
    np.testing.assert_allclose(found[1], bias - 0.1 * errors.sum(0), 1e-4)


@pytest.mark.parametrize("partner", ["nothing", "weights", "teacher"])
@pytest.mark.parametrize(
    ("reduce", "received"),
    [
        (lambda losses: losses[:, None], r"shape \((8|None), 1\)"),
        (ops.mean, r"shape \(\)"),
        (lambda losses: losses[:2], r"shape \(2,\)"),
        (lambda losses: None, r"shape \(\), of type NoneType"),
    ],
)
def test_a_loss_of_another_shape_is_refused(reduce, received, partner):
    # Broadcast, its gradient was about as many times too large as a batch
    # has images; two values cannot be told from the batch where that is open.
    if received == r"shape \(2,\)" and keras.backend.backend() == "tensorflow":
        pytest.skip("The size of a batch is not known when it is traced.")
    weights = np.ones(8, "float32") if partner == "weights" else None
    callbacks = []
    if partner == "teacher":
        callbacks.append(kw.PretrainedTeacher(network(seed=1), 0.5))
    with pytest.raises(
        ValueError,
        match=r"`Squares` must have one value per sample, shape \((8|batch),\)"
        rf"\. Received: {received}.*Reduce it over the classes",
    ):
        train(Squares(reduce), *callbacks, sample_weight=weights)


def test_a_loss_that_reads_other_images_is_refused():
    with pytest.raises(
        ValueError,
        match=r"`Squares` reads the adversarial logits, and its `inputs` do "
        r"not name them\. Received: inputs=\('clean',\)",
    ):
        train(Squares(reads="adversarial"))
    with pytest.raises(KeyError, match="other"):  # Not what is meant here.
        train(Squares(reads="other"))


@pytest.mark.parametrize("around", [lambda o: o, kw.objectives.AWP])
@pytest.mark.parametrize(
    "inputs",
    ["clean", (), ("clean", "attacked"), ("clean", "clean"), None, (1,)],
)
def test_inputs_must_name_images(inputs, around):
    class Mine(kw.objectives.Objective):
        pass

    Mine.inputs = inputs
    with pytest.raises(
        ValueError, match=r"`Mine\.inputs` must be a tuple.*Received: inputs="
    ):
        kw.WakeModel(network(), kw.attacks.PGD(epsilon=0.1), around(Mine()))
