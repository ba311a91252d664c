"""What a resumed run takes over from its backup, and what from its script."""

import contextlib
import shutil

import keras
import numpy as np
import pytest

import keras_wake as kw
from keras_wake.checkpoint import archive
from keras_wake.checkpoint import run_record
from keras_wake.training import fit as fit_checks

SHAPE = (4, 4, 1)
X = np.random.default_rng(0).random((6, *SHAPE)).astype("float32")
Y = np.arange(6, dtype="int32") % 3


@pytest.fixture(scope="module", autouse=True)
def module_eagerly(without_compiling):
    with without_compiling():
        yield


def network(activation="elu", rate=0.25, units=8, momentum=0.9, more=()):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation=activation),
            keras.layers.BatchNormalization(momentum=momentum),
            keras.layers.Dropout(rate),
            *more,
            keras.layers.Dense(3),
        ]
    )


def wake(classifier=None, optimizer=None, **arguments):
    attack = kw.attacks.PGD(epsilon=0.1, steps=1)
    arguments = {"attack": attack, "eval_attack": attack, **arguments}
    model = kw.WakeModel(classifier or network(), **arguments)
    model.compile(optimizer or keras.optimizers.SGD(0.2, momentum=0.9))
    return model


def fit(model, folder, *callbacks, epochs=1, batch_size=3, **arguments):
    backup = kw.BackupAndRestore(folder, delete_checkpoint=False)
    arguments = {"x": X, "y": Y, "batch_size": batch_size, **arguments}
    return model.fit(
        **arguments, epochs=epochs, verbose=0, callbacks=[*callbacks, backup]
    )


def callbacks(decay=0.9, path="best.keras", **arguments):
    return [
        kw.EMATeacher(decay),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", **arguments),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The backup of a run of one epoch."""
    folder = tmp_path_factory.mktemp("whole") / "backup"
    fit(wake(), folder, *callbacks())
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "backup")


def told(folder, model, *given, **arguments):
    """Resumes the run, which has nothing left to train; what is told."""
    with pytest.warns(UserWarning) as caught:
        fit(model, folder, *(given or callbacks()), **arguments)
    messages = [str(w.message) for w in caught if "backup" in str(w.message)]
    assert "nothing is left to train" in messages.pop()
    assert len(messages) <= 1, messages
    return messages[0] if messages else ""


def rate_of(model):
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def test_the_same_script_is_told_nothing(folder):
    assert told(folder, wake()) == ""


SGD = keras.optimizers.SGD
OTHER_SETTINGS = {
    "rate": (
        {"optimizer": lambda: SGD(0.05, momentum=0.9)},
        "learning_rate: 0.2 in the backup, 0.05 in this script",
    ),
    "momentum": (
        {"optimizer": lambda: SGD(0.2, momentum=0.5)},
        "SGD momentum: 0.9 in the backup, 0.5 in this script",
    ),
    "no momentum": (
        {"optimizer": lambda: SGD(0.2)},
        "SGD momentum: 0.9 in the backup, 0 in this script",
    ),
    "no dropout": (
        {"classifier": lambda: network(rate=0)},
        "`rate` of layer 4 (Dropout): 0.25 in the backup, 0 in this script",
    ),
    "weight decay": (
        {"optimizer": lambda: SGD(0.2, momentum=0.9, weight_decay=0.01)},
        "SGD weight_decay: None in the backup, 0.01 in this script",
    ),
    "attack of evaluation": (
        {"eval_attack": lambda: kw.attacks.FGSM(epsilon=0.1)},
        "eval_attack: PGD {",
    ),
    "attack": (
        {"attack": lambda: kw.attacks.PGD(epsilon=0.2, steps=1)},
        "'epsilon': 0.1,",
    ),
    "seed": ({"seed": lambda: 4}, "seed: 0 in the backup, 4 in this script"),
    "scale": (
        {"scale_distillation": lambda: False},
        "scale_distillation: True in the backup, False in this script",
    ),
    "dropout": (
        {"classifier": lambda: network(rate=0.5)},
        "`rate` of layer 4 (Dropout): 0.25 in the backup, 0.5 in this script",
    ),
    "batch norm": (
        {"classifier": lambda: network(momentum=0.8)},
        "`momentum` of layer 3 (BatchNormalization): 0.9 in the backup, "
        "0.8 in this script",
    ),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_settings_are_those_of_the_script(folder, name):
    arguments, message = OTHER_SETTINGS[name]
    model = wake(**{key: make() for key, make in arguments.items()})
    found = told(folder, model)
    assert "was made with other settings" in found and message in found
    assert found.count(" in the backup, ") == found.count("; ") + 1 == 1
    if name == "rate":
        assert rate_of(model) == pytest.approx(0.05)


def test_batch_size_and_callbacks_are_those_of_the_script(folder):
    assert "batch_size: 3 in the backup, 2 in this script" in told(
        folder, wake(), batch_size=2
    )
    assert (
        "`EMATeacher(decay=)`: 0.9 in the backup, 0.5 in this script"
        in told(folder, wake(), *callbacks(decay=0.5))
    )
    assert (
        "`ReduceLROnPlateau(factor=)`: 0.1 in the backup, 0.5 in this script"
        in told(folder, wake(), *callbacks(factor=0.5))
    )
    found = told(folder, wake(), callbacks()[1])
    assert "Differing: `EMATeacher` is missing in this script." in found
    nan = keras.callbacks.TerminateOnNaN()
    found = told(folder, wake(), *callbacks(), nan)
    assert "Differing: no `TerminateOnNaN` of the backup clearly" in found


class Halve(keras.callbacks.Callback):
    """A callback that moves the learning rate after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate.assign(rate_of(self.model) / 2)


def test_rate_that_a_callback_has_moved_goes_on(tmp_path):
    fit(wake(), tmp_path, Halve())
    model = wake()
    fit(model, tmp_path, Halve(), epochs=2)
    assert rate_of(model) == pytest.approx(0.05)
    # In the same process the rate is the moved one.
    fit(model, tmp_path, Halve(), epochs=3)
    assert rate_of(model) == pytest.approx(0.025)
    # The rate of the script is still the first one.
    model = wake()
    kw.BackupAndRestore(tmp_path).restore(model)
    assert rate_of(model) == pytest.approx(0.025)
    model = wake(optimizer=SGD(0.4, momentum=0.9))
    kw.BackupAndRestore(tmp_path).restore(model)
    with pytest.warns(
        UserWarning,
        match="learning_rate: 0.2 in the backup, 0.4 in this script",
    ):
        fit(model, tmp_path, Halve(), epochs=4)
    assert rate_of(model) == pytest.approx(0.2)


def test_schedule_takes_the_place_of_a_rate_and_back(folder, tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model = wake(optimizer=SGD(schedule, momentum=0.9))
    with pytest.warns(
        UserWarning, match=r"learning_rate: 0\.2 in the backup, Expon"
    ):
        fit(model, folder, *callbacks()[:1], epochs=2)
    # Four steps of the schedule, two of them before.
    assert rate_of(model) == pytest.approx(0.1 * 0.5**0.4)
    model = wake(optimizer=SGD(0.3, momentum=0.9))
    found = told(folder, model, *callbacks()[:1], epochs=2)
    assert "in the backup, 0.3 in this script" in found
    assert rate_of(model) == pytest.approx(0.3)


class Scaled(keras.layers.Layer):
    def __init__(self, factor, **arguments):
        super().__init__(**arguments)
        self._factor = factor

    def call(self, inputs):
        return inputs * self._factor

    def get_config(self):
        return {**super().get_config(), "factor": self._factor}


def functional(last="relu", factor=2.0, same=False, scale=1.0, rescale=None):
    inputs = keras.Input(SHAPE)
    first = keras.layers.Flatten()(inputs)
    second = keras.layers.Dense(16)(first)
    added = keras.layers.Add()([second, second] if same else [first, second])
    outputs = getattr(keras.ops, last)(added * factor)
    outputs = keras.layers.Rescaling(
        np.float32(1) if rescale is None else rescale
    )(Scaled(scale)(outputs))
    return keras.Model(inputs, keras.layers.Dense(3)(outputs))


OTHER_NETWORKS = {
    "operation": (
        lambda: functional("silu"),
        "operation 6 of the network is `Relu` in the backup and `Silu` in",
    ),
    "constant": (
        lambda: functional(factor=3.0),
        "operation 5 of the network (Multiply) takes other inputs in this",
    ),
    "connection": (
        lambda: functional(same=True),
        "operation 4 of the network (Add) takes other inputs in this",
    ),
    "only in get_config": (
        lambda: functional(scale=3.0),
        "`factor` of layer 4 (Scaled): 1 in the backup, 3 in this",
    ),
    "number of NumPy": (
        lambda: functional(rescale=np.float32(3)),
        "`scale` of layer 5 (Rescaling): 1 in the backup, 3 in this",
    ),
    "array": (
        lambda: functional(rescale=np.ones(16)),
        "`scale` of layer 5 (Rescaling): 1 in the backup, [1.0, 1.0,",
    ),
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_operations_connections_and_any_setting_are_compared(name):
    make, message = OTHER_NETWORKS[name]
    saved, same, current = (
        run_record.run_record(wake(each()), [], {})
        for each in (functional, functional, make)
    )
    assert run_record.refusals(saved, same) == []
    (found,) = run_record.refusals(saved, current)
    assert found.startswith(message)
    # Of a backup of an earlier version the rest is compared.
    del saved["graphs"]
    for layer in saved["layers"]:
        for name in ("factor", "scale"):
            layer["given"].pop(name, None)
    assert run_record.refusals(saved, current) == []


class Shift(kw.attacks.Attack):
    """It inherits a `get_config` that does not know its number."""

    def __init__(self, size):
        super().__init__(epsilon=0.1)
        self.size = size

    def run(self, classifier, x, labels, seed):
        return keras.ops.full_like(x, self.size)


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return keras.ops.convert_to_tensor(self.rate, "float32")

    def get_config(self):
        return {}


def scaled(**arguments):
    return keras.optimizers.LossScaleOptimizer(SGD(0.1), **arguments)


def test_settings_of_own_parts_wrappers_and_data():
    def differences(old, new):
        return run_record.differences(*(
            {
                "settings": run_record.settings_of(model),
                "record": run_record.run_record(
                    model, [], fit_checks.data_settings(data)
                ),
            }
            for model, data in (old, new)
        ), {})  # fmt: skip

    data = {"x": X, "y": Y}
    frozen = network()
    frozen.layers[1].trainable = False
    assert differences((wake(), data), (wake(), data)) == []
    for old, new, message in (
        (
            (wake(), data),
            (wake(frozen), data),
            "`trainable` of layer 2 (Dense): True in the backup, False in",
        ),
        (
            (wake(), data),
            (wake(), {"x": X[:3], "y": Y[:3]}),
            "images: 6 in the backup, 3 in this script",
        ),
        (
            (wake(), data),
            (wake(), {**data, "sample_weight": np.ones(6)}),
            "sample_weight: False in the backup, True in this script",
        ),
        (
            (wake(eval_attack=Shift(0.01)), data),
            (wake(eval_attack=Shift(0.02)), data),
            "eval_attack: Shift {",
        ),
        (
            (wake(optimizer=scaled()), data),
            (wake(optimizer=scaled(dynamic_growth_steps=3)), data),
            "LossScaleOptimizer(SGD) dynamic_growth_steps: 2000 in the backup",
        ),
    ):
        (found,) = differences(old, new)
        assert found.startswith(message)
    rates = [
        run_record.run_record(wake(optimizer=SGD(Constant(r))), [], {})
        for r in (0.1, 0.2)
    ]
    assert "{'rate': 0.1}" in rates[0]["learning_rate"]
    assert "{'rate': 0.2}" in rates[1]["learning_rate"]


OTHER_MODELS = {
    "activation": (
        {"classifier": lambda: network(activation="relu")},
        r"`activation` of layer 2 \(Dense\): elu in the backup, relu in",
    ),
    "layers": (
        {"classifier": lambda: network(more=[keras.layers.ReLU()])},
        "layer 5 is `Dense` in the backup and `ReLU` in this script",
    ),
    "shape": (
        {"classifier": lambda: network(units=9)},
        r"`units` of layer 2 \(Dense\): 8 in the backup, 9 in this",
    ),
    "optimizer": (
        {"optimizer": lambda: keras.optimizers.RMSprop(0.2, momentum=0.9)},
        "the optimizer is SGD in the backup and RMSprop in this script",
    ),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_backup_of_another_model_is_refused(folder, tmp_path, name):
    arguments, message = OTHER_MODELS[name]
    model = wake(**{key: make() for key, make in arguments.items()})
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss\n0,1.5\n")
    logger = keras.callbacks.CSVLogger(log)
    content = (folder / "backup.npz").read_bytes()
    before = [value.copy() for value in model.get_weights()]
    with pytest.raises(ValueError, match=f"does not fit.*{message}"):
        fit(model, folder, logger, epochs=2)
    with pytest.raises(ValueError, match=f"does not fit.*{message}"):
        kw.BackupAndRestore(folder).restore(model)
    # Nothing was touched: no log, no backup, no weight.
    assert log.read_text() == "epoch,loss\n0,1.5\n"
    assert (folder / "backup.npz").read_bytes() == content
    for value, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, other)


def values_of(model):
    # The optimizer's come last; `Dropout` has random states in between.
    return [
        keras.ops.convert_to_numpy(v)
        for v in (*model.classifier.weights, *model.teacher.weights)
    ]


def assert_same(old, new):
    for value, other in zip(old, new, strict=True):
        np.testing.assert_array_equal(value, other)


def test_dropout_and_momentum_that_are_switched_on_begin_anew(tmp_path):
    old = wake(network(rate=0), optimizer=SGD(0.2))
    fit(old, tmp_path, *callbacks())
    model = wake(optimizer=SGD(0.2, momentum=0.9))
    found = told(tmp_path, model)
    assert "`rate` of layer 4 (Dropout): 0 in the backup, 0.25 in" in found
    assert "SGD momentum: 0 in the backup, 0.9 in this script" in found
    assert "variables of the optimizer that begin anew: 6" in found
    assert_same(values_of(old), values_of(model))
    assert int(model.optimizer.iterations) == 2
    for momentum in model.optimizer.momentums:
        assert not np.any(keras.ops.convert_to_numpy(momentum))
    # And trains.
    with pytest.warns(UserWarning, match="begin anew"):
        log = fit(model, tmp_path, *callbacks(), epochs=2)
    assert np.isfinite(log.history["loss"]).all()


def test_momenta_of_weights_that_stay_are_restored(tmp_path):
    old = wake()
    fit(old, tmp_path, *callbacks())
    frozen = network()
    # Dense, whose kernel and bias have the first two momenta.
    frozen.layers[1].trainable = False
    model = wake(frozen)
    found = told(tmp_path, model)
    assert "`trainable` of layer 2 (Dense): True in the backup" in found
    assert "begin anew" not in found
    before, after = old.optimizer.momentums, model.optimizer.momentums
    assert len(before) == 6 and len(after) == 4
    assert_same(
        map(keras.ops.convert_to_numpy, before[2:]),
        map(keras.ops.convert_to_numpy, after),
    )


def test_other_options_of_an_optimizer(tmp_path):
    old = wake(optimizer=SGD(0.2))
    fit(old, tmp_path, *callbacks())
    model = wake(optimizer=SGD(0.2, use_ema=True))
    assert "SGD use_ema: False in the backup, True in" in told(tmp_path, model)
    # The average begins with the weights.
    averages = model.optimizer._model_variables_moving_average
    assert_same(
        map(keras.ops.convert_to_numpy, averages),
        map(keras.ops.convert_to_numpy, old.trainable_variables),
    )
    model = wake(optimizer=SGD(0.2, gradient_accumulation_steps=2))
    assert "steps: None in the backup, 2 in" in told(tmp_path, model)
    assert int(model.optimizer.iterations) == 2


def test_optimizer_that_scales_the_loss(tmp_path):
    fit(wake(optimizer=scaled()), tmp_path, *callbacks())
    model = wake(optimizer=scaled())
    assert told(tmp_path, model) == ""
    assert int(model.optimizer.inner_optimizer.iterations) == 2
    model = wake(optimizer=scaled(initial_scale=2.0))
    assert "initial_scale: 32768 in the backup, 2 in" in told(tmp_path, model)
    assert float(model.optimizer.dynamic_scale) == 2


@pytest.fixture
def edit(folder):
    """Changes the state in the backup, as if it had been written so."""

    @contextlib.contextmanager
    def edit():
        state, values = archive.read(folder / "backup.npz")
        yield state
        archive.write(folder / "backup.npz", state, values)

    return edit


def test_optimizer_of_an_older_backup_is_not_taken_apart(folder, edit):
    with edit() as state:
        del state["record"]["variables"]
    assert told(folder, wake()) == ""
    message = "does not fit.*It has 30 values for 24 variables"
    with pytest.raises(ValueError, match=message):
        fit(wake(optimizer=SGD(0.2)), folder, epochs=2)


def test_backup_of_an_older_version_cannot_be_compared(folder, edit):
    with edit() as state:
        for name in ("record", "epochs", "stopped"):
            del state[name]
        for name in ("eval_attack", "scale_distillation"):
            del state["settings"][name]
    model = wake(optimizer=SGD(0.05, momentum=0.9))
    found = told(folder, model)
    assert "written by an older keras-wake" in found
    assert "cannot be compared" in found
    assert rate_of(model) == pytest.approx(0.2)


def test_settings_of_a_layer_in_two_dictionaries(folder, edit):
    """As earlier versions wrote them."""
    with edit() as state:
        for layer in state["record"]["layers"]:
            layer["more"] = {"trainable": layer["given"].pop("trainable")}
    assert told(folder, wake()) == ""


def test_backup_of_another_backend_draws_other_masks(folder, edit):
    with edit() as state:
        assert state["record"]["backend"] == keras.backend.backend()
        state["record"]["backend"] = "numpy"
    found = told(folder, wake())
    assert "backend: numpy in the backup" in found and "dropout masks" in found


class Remembers(keras.callbacks.Callback):
    def __init__(self, name=None):
        super().__init__()
        self.name, self.value = name, None

    def on_epoch_end(self, epoch, logs=None):
        self.value = [self.name, epoch]

    def get_state(self):
        return {"value": self.value}

    def set_state(self, state):
        self.value = state["value"]


def test_state_goes_to_the_callback_that_was_given_the_same(tmp_path):
    def checkpoint(name, monitor):
        return keras.callbacks.ModelCheckpoint(
            tmp_path / name, monitor=monitor, save_best_only=True, mode="min"
        )

    folder = tmp_path / "backup"
    low = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(low=-9.0, high=9.0)
    )
    first = [checkpoint("a.keras", "low"), checkpoint("b.keras", "high")]
    own = [Remembers("x"), Remembers("y")]
    fit(wake(), folder, low, *first, *own)
    assert [c.best for c in first] == [-9, 9]

    # In another order, and one of each left out.
    second, other = checkpoint("b.keras", "high"), Remembers("y")
    with pytest.warns(UserWarning) as caught:
        fit(wake(), folder, other, low, second)
    assert second.best == 9 and other.value == ["y", 0]
    (found,) = (str(w.message) for w in caught if "Diff" in str(w.message))
    assert "`ModelCheckpoint` is missing in this script" in found
    assert "`Remembers` is missing in this script" in found

    # None of both is clearly this one.
    other = Remembers("z")
    with pytest.warns(UserWarning) as caught:
        fit(wake(), folder, low, *first, other)
    assert any("no `Remembers` of the backup" in str(w.message) for w in caught)
    assert other.value is None

    # The best model is gone: the next one is saved.
    (tmp_path / "b.keras").unlink()
    third = checkpoint("b.keras", "high")
    with pytest.warns(UserWarning) as caught:
        fit(wake(), folder, low, first[0], third, *own)
    assert any(
        "of the best model (high: 9) is missing" in str(w.message)
        for w in caught
    )
    assert third.best is None


def test_callbacks_that_would_run_twice_are_refused(tmp_path):
    teacher = kw.EMATeacher(0.5)
    for twice in ([teacher, teacher], [[teacher], [teacher]]):
        with pytest.raises(ValueError, match="The same `EMATeacher` is twice"):
            fit(wake(), tmp_path, *twice)
    stopping = keras.callbacks.EarlyStopping(monitor="loss")
    with pytest.raises(ValueError, match=r"Stopping` is twice.*monitor='loss'"):
        fit(wake(), tmp_path, stopping, stopping)
    with pytest.raises(ValueError, match="A model has one average"):
        fit(wake(), tmp_path, teacher, kw.EMATeacher(0.5))
    with pytest.raises(TypeError, match=r"Use `keras_wake\.BackupAndRestore"):
        fit(wake(), tmp_path, keras.callbacks.BackupAndRestore(tmp_path))


def test_model_that_is_not_compiled_is_told_so(tmp_path):
    attack = kw.attacks.FGSM(epsilon=0.1)
    with pytest.raises(ValueError, match="compile"):
        fit(kw.WakeModel(network(), attack), tmp_path)
