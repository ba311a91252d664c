"""CatastrophicOverfitMonitor: its rule, its actions, and a real collapse."""

import warnings

import keras
import numpy as np
import pytest
import small
from small import assert_same

import keras_wake as kw

GOOD, BAD = (0.9, 0.8), (0.9, 0.1)
eagerly = pytest.mark.usefixtures("eagerly")


def data():
    return small.data(20, shape=(1, 1, 3))


def wake(steps_per_execution=1):
    """The logits are the three pixels, as long as little is learnt."""
    head = keras.layers.Dense(3, kernel_initializer="identity")
    classifier = keras.Sequential(
        [keras.Input((1, 1, 3)), keras.layers.Flatten(), head]
    )
    model = kw.WakeModel(classifier, kw.attacks.FGSM(epsilon=0.1))
    model.compile(
        keras.optimizers.SGD(1e-4, momentum=0.9),
        steps_per_execution=steps_per_execution,
    )
    return model


class Scripted:
    """Stands for an attack under which accuracy is as planned."""

    def __init__(self, accuracies):
        self.accuracies = list(accuracies)
        self.images = []

    def __call__(self, classifier, x, y, seed=None):
        self.images.append(x)
        classes = y.reshape(-1) if y.shape[-1:] != (3,) else y.argmax(1)
        hit = np.arange(len(x)) < round(self.accuracies.pop(0) * len(x))
        seen = np.where(hit, classes, (classes + 1) % 3)
        return np.eye(3, dtype="float32")[seen].reshape(-1, 1, 1, 3)


def scripted(*accuracies, **kwargs):
    single, multi = zip(*accuracies, strict=True)
    return kw.CatastrophicOverfitMonitor(
        single_step=Scripted(single), multi_step=Scripted(multi), **kwargs
    )


def fit(model, *callbacks, epochs=1):
    options = {"batch_size": 5, "epochs": epochs, "verbose": 0}
    return model.fit(*data(), callbacks=list(callbacks), **options)


@pytest.fixture(scope="module")
def model():
    return wake()


@pytest.mark.parametrize(
    ("single", "multi", "thresholds", "collapsed"),
    [
        (0.5, 0.25, {}, True),  # both conditions just met
        (0.9, 0.5, {}, False),  # more than half is left
        (0.4, 0.2, {}, False),  # the difference is below a quarter
        (0.3, 0.0, {}, True),
        (0.1, 0.9, {}, False),
        (0.4, 0.3, {"gap": 0.1, "ratio": 0.75}, True),
    ],
)
def test_rule(model, single, multi, thresholds, collapsed):
    monitor = scripted((single, multi), **thresholds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logs = fit(model, monitor).history
    messages = [str(w.message) for w in caught]
    assert any("Catastrophic" in m for m in messages) == collapsed
    assert monitor.collapsed == collapsed
    measured = {"single_step_accuracy": single, "multi_step_accuracy": multi}
    place = {"epoch": 1, "step": 4}
    assert monitor.history == [{**place, **measured, "collapsed": collapsed}]
    for key, value in measured.items():
        assert logs[key] == [value]


def test_warn_says_it_once_and_goes_on(model):
    monitor = scripted(GOOD, BAD, BAD, GOOD)
    with pytest.warns(
        UserWarning,
        match=r"in epoch 2, step 8: accuracy on 20 training images is 90.0% "
        r"under one step and 10.0% under PGD\. A smaller epsilon",
    ) as caught:
        history = fit(model, monitor, epochs=4)
    assert sum("Catastrophic" in str(w.message) for w in caught) == 1
    assert history.epoch == [0, 1, 2, 3]
    collapsed = [entry["collapsed"] for entry in monitor.history]
    assert collapsed == [False, True, True, False]
    # The next fit starts anew.
    monitor.single_step.accuracies = [0.9]
    monitor.multi_step.accuracies = [0.8]
    fit(model, monitor)
    assert not monitor.collapsed
    assert len(monitor.history) == 1


@pytest.mark.parametrize(
    ("accuracies", "action", "message"),
    [
        ([GOOD, BAD], "stop", r"under PGD\. Training stops\."),
        ([BAD], "rollback", "No check before was good"),
    ],
)
def test_ends_the_run(model, accuracies, action, message):
    monitor = scripted(*accuracies, action=action)
    with pytest.warns(UserWarning, match=message):
        history = fit(model, monitor, epochs=5)
    assert history.epoch == list(range(len(accuracies)))


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


@eagerly
def test_rollback_restores_student_teacher_and_optimiser():
    model, states = wake(), []
    recorder = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: states.append(state(model))
    )
    monitor = scripted(GOOD, GOOD, BAD, action="rollback")
    message = r"back to those of epoch 2, step 8\. Training stops"
    with pytest.warns(UserWarning, match=message):
        history = fit(model, kw.EMATeacher(0.5), recorder, monitor, epochs=5)
    assert history.epoch == [0, 1, 2]
    after = state(model)
    assert_same(after, states[1])
    assert int(model.optimizer.iterations) == 8 == int(model.teacher_updates)
    # It went on from there, so there was something to take back.
    places = {id(variable): n for n, variable in enumerate(model.variables)}
    for network in (model.classifier, model.teacher):
        at = places[id(network.weights[0])]
        assert np.abs(after[at] - states[2][at]).max() > 0


def test_every_n_steps_stops_within_the_epoch(model):
    # Four steps an epoch: checks after steps 3, 6 and 9.
    monitor = scripted(GOOD, GOOD, BAD, every=3, action="stop")
    with pytest.warns(UserWarning, match="in epoch 3, step 9"):
        history = fit(model, monitor, epochs=5)
    assert [e["step"] for e in monitor.history] == [3, 6, 9]
    assert history.epoch == [0, 1, 2]
    assert history.history["multi_step_accuracy"] == [0.8, 0.8, 0.1]


not_on_torch = pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="Keras refuses steps_per_execution on PyTorch",
)


@not_on_torch
def test_interval_longer_than_the_run_is_told(model):
    monitor = kw.CatastrophicOverfitMonitor(every=1000)
    with pytest.warns(UserWarning, match="has made no check.*every=1000"):
        fit(model, monitor)
    assert monitor.history == []


@not_on_torch
def test_every_n_steps_with_several_steps_a_call():
    monitor = scripted(*[GOOD] * 4, every=3)
    fit(wake(steps_per_execution=2), monitor, epochs=4)
    # A call ends after every second step; the first that is due counts.
    assert [e["step"] for e in monitor.history] == [4, 8, 12, 16]


@eagerly
@pytest.mark.parametrize(
    "form, labels",
    [("array", "int"), ("array", "column"), ("tf", "1-hot"), ("given", "int")],
)
def test_takes_the_first_images_from_every_form_of_data(model, form, labels):
    x, y = data()
    one_hot = np.eye(3, dtype="float32")[y]
    y = {"int": y, "column": y[:, None], "1-hot": one_hot}[labels]
    monitor = scripted((0.5, 0.75), samples=8)
    arguments = {"x": x, "y": y, "batch_size": 5}
    if form == "tf":
        tf = pytest.importorskip("tensorflow")
        dataset = tf.data.Dataset.from_tensor_slices((x, y))
        arguments = {"x": dataset.batch(5)}
    if form == "given":
        monitor.data = (x[10:], y[10:])
        x = x[10:]
    model.fit(**arguments, verbose=0, callbacks=[monitor])
    np.testing.assert_array_equal(monitor.single_step.images[0], x[:8])
    # Accuracy is right only if the labels were understood.
    assert monitor.history[0]["single_step_accuracy"] == 0.5
    assert monitor.history[0]["multi_step_accuracy"] == 0.75


def test_a_generator_is_not_used_up(model):
    batches = (batch for batch in [data()])
    with pytest.raises(ValueError, match=r"gives each only once.*data=\(x, y"):
        model.fit(batches, verbose=0, callbacks=[scripted(GOOD)])


def test_default_attacks_are_in_the_threat_model_of_training():
    monitor = kw.CatastrophicOverfitMonitor()
    attack = kw.attacks.FGSM("l2", 0.5, random_start=True)
    monitor.set_model(small.wake(attack=attack, eval_attack=None))
    single = kw.attacks.FGSM("l2", 0.5)
    multi = kw.attacks.PGD("l2", 0.5, 0.5 / 8, steps=10, loss="cross_entropy")
    assert monitor._single.get_config() == single.get_config()
    assert monitor._multi.get_config() == multi.get_config()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"action": "panic"}, ValueError, "'warn', 'stop', 'rollback'.*'pan"),
        ({"every": 0}, ValueError, '`every` must be at least 1.*"epoch"'),
        ({"every": "step"}, TypeError, "`every` must be an integer"),
        ({"samples": 0}, ValueError, "`samples` must be at least 1"),
        ({"gap": 25}, ValueError, "`gap` must be between 0 and 1"),
        ({"gap": 0}, ValueError, "`gap` must be greater than 0"),
        ({"ratio": -0.1}, ValueError, "`ratio` must be between 0 and 1"),
        ({"single_step": "fgsm"}, TypeError, "`single_step` must be an attack"),
        ({"multi_step": kw.attacks.PGD}, TypeError, "`multi_step` must be an"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        kw.CatastrophicOverfitMonitor(**arguments)


def test_refuses_empty_data(model):
    with pytest.raises(ValueError, match="The data set is empty"):
        fit(model, kw.CatastrophicOverfitMonitor(data=[]))


# A real collapse ----------------------------------------------------------

EPSILON = 0.3


def digits():
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    images = (x[:1400] / 16).reshape(-1, 8, 8, 1).astype("float32")
    return images, y[:1400].astype("int32")


def train_on_digits(classifier, attack, epochs, rate, **kwargs):
    """Trains on real digits, watched as by default."""
    model = kw.WakeModel(classifier, attack)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    monitor = kw.CatastrophicOverfitMonitor(**kwargs)
    model.fit(
        *digits(), batch_size=64, epochs=epochs, verbose=0, callbacks=[monitor]
    )
    return monitor


@pytest.fixture(scope="module")
def robust():
    """A network and its monitor after PGD training, which does not collapse."""
    keras.utils.set_random_seed(2)
    layers = []
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        layers += [
            keras.layers.Conv2D(filters, 3, strides, "same"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    head = [keras.layers.Flatten(), keras.layers.Dense(10)]
    classifier = keras.Sequential([keras.Input((8, 8, 1)), *layers, *head])
    attack = kw.attacks.PGD(epsilon=EPSILON, steps=7)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Catastrophic")
        monitor = train_on_digits(classifier, attack, epochs=8, rate=0.05)
    return classifier, monitor


@pytest.mark.slow
def test_is_silent_on_a_run_that_does_not_collapse(robust):
    _, monitor = robust
    assert not monitor.collapsed
    assert len(monitor.history) == 8
    # Seen: 46 % under one step, 36 % under ten.
    assert monitor.history[-1]["multi_step_accuracy"] > 0.25


def copy_of(network):
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def accuracy(network, attack):
    """On the images of the monitor."""
    x, y = (part[:256] for part in digits())
    logits = network(attack(network, x, y, seed=0), training=False)
    predicted = np.argmax(keras.ops.convert_to_numpy(logits), axis=1)
    return np.mean(predicted == y)


def test_sees_a_real_collapse(robust):
    # Single-step training with a large epsilon goes on from a network that
    # is robust, and loses that. In which epoch depends on the run (the third
    # to sixth in five runs), and later epochs may gain it back: so it stops.
    network = copy_of(robust[0])
    attack = kw.attacks.FGSM(epsilon=EPSILON)
    with pytest.warns(UserWarning, match="Catastrophic overfitting in epoch"):
        monitor = train_on_digits(
            network, attack, epochs=15, rate=0.1, action="stop"
        )
    assert monitor.history[-1]["collapsed"]
    # An attack of more steps than that of the monitor tells the same of both
    # networks, and is clear of the thresholds 0.25 and 0.5.
    strong = kw.attacks.PGD(epsilon=EPSILON, steps=30)
    single, multi = accuracy(network, attack), accuracy(network, strong)
    assert single == monitor.history[-1]["single_step_accuracy"]
    assert single - multi > 0.2 and multi < 0.55 * single
    single, multi = accuracy(robust[0], attack), accuracy(robust[0], strong)
    assert single - multi < 0.2 and multi > 0.6 * single


@pytest.mark.slow
def test_goes_back_from_a_real_collapse(robust):
    classifier = copy_of(robust[0])
    attack = kw.attacks.FGSM(epsilon=EPSILON)
    with pytest.warns(UserWarning, match="weights are back to those of epoch"):
        monitor = train_on_digits(
            classifier, attack, epochs=15, rate=0.1, action="rollback"
        )
    assert len(monitor.history) < 15
    good, bad = monitor.history[-2:]
    assert bad["collapsed"]
    # The network is the one that passed the check before.
    strong = kw.attacks.PGD(epsilon=EPSILON, steps=10)
    assert accuracy(classifier, strong) == good["multi_step_accuracy"]
