"""What a resumed run takes over from its backup, and what from its script."""

import contextlib
import shutil

import keras
import numpy as np
import pytest
import small
from small import assert_same
from small import SHAPE

import keras_wake as kw
from keras_wake.checkpoint import archive
from keras_wake.checkpoint import run_record
from keras_wake.training import fit as fit_checks

SGD = keras.optimizers.SGD
PGD = kw.attacks.PGD(epsilon=0.1, steps=1)


@pytest.fixture(scope="module", autouse=True)
def module_eagerly(without_compiling):
    with without_compiling():
        yield


def network(activation="elu", rate=0.25, units=8, momentum=0.9, more=()):
    return small.network(
        lambda: [
            keras.layers.Dense(units, activation=activation),
            keras.layers.BatchNormalization(momentum=momentum),
            keras.layers.Dropout(rate),
            *more,
        ]
    )


def wake(classifier=None, optimizer=None, attack=PGD, **arguments):
    arguments = {"eval_attack": PGD, **arguments}
    optimizer = optimizer or SGD(0.2, momentum=0.9)
    return small.wake(classifier or network(), attack, optimizer, **arguments)


def with_sgd(rate=0.2, **arguments):
    return wake(optimizer=SGD(rate, **{"momentum": 0.9, **arguments}))


def fit(model, folder, *callbacks, batch_size=3, **arguments):
    backup = kw.BackupAndRestore(folder, delete_checkpoint=False)
    arguments = {"count": 6, "batch_size": batch_size, **arguments}
    return small.fit(model, *callbacks, backup, **arguments)


def callbacks(decay=0.9, **arguments):
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


def differs(name, old, new):
    return f"{name}: {old} in the backup, {new} in this script"


def assert_only(found, message):
    assert "was made with other settings" in found and message in found
    assert found.count(" in the backup, ") == found.count("; ") + 1 == 1


DROPOUT = "`rate` of layer 4 (Dropout)"
NORM = "`momentum` of layer 3 (BatchNormalization)"


@pytest.mark.parametrize(
    ("name", "old", "new", "make"),
    [
        ("learning_rate", 0.2, 0.05, lambda: with_sgd(0.05)),
        ("SGD momentum", 0.9, 0.5, lambda: with_sgd(momentum=0.5)),
        ("SGD momentum", 0.9, 0, lambda: wake(optimizer=SGD(0.2))),
        ("SGD weight_decay", None, 0.01, lambda: with_sgd(weight_decay=0.01)),
        ("seed", 0, 4, lambda: wake(seed=4)),
        (
            "scale_distillation",
            True,
            False,
            lambda: wake(scale_distillation=False),
        ),
        (DROPOUT, 0.25, 0.5, lambda: wake(network(rate=0.5))),
        (DROPOUT, 0.25, 0, lambda: wake(network(rate=0))),
        (NORM, 0.9, 0.8, lambda: wake(network(momentum=0.8))),
    ],
)
def test_settings_are_those_of_the_script(folder, name, old, new, make):
    model = make()
    assert_only(told(folder, model), differs(name, old, new))
    rate = new if name == "learning_rate" else 0.2
    assert rate_of(model) == pytest.approx(rate)


def test_attacks_are_those_of_the_script(folder):
    found = told(folder, wake(eval_attack=kw.attacks.FGSM(epsilon=0.1)))
    assert_only(found, "eval_attack: PGD {")
    found = told(folder, wake(attack=kw.attacks.PGD(epsilon=0.2, steps=1)))
    assert_only(found, "'epsilon': 0.1,")


def test_batch_size_and_callbacks_are_those_of_the_script(folder):
    plateau = "`ReduceLROnPlateau(factor=)`"
    nan = keras.callbacks.TerminateOnNaN()
    for message, given in (
        (differs("`EMATeacher(decay=)`", 0.9, 0.5), callbacks(decay=0.5)),
        (differs(plateau, 0.1, 0.5), callbacks(factor=0.5)),
        ("Differing: `EMATeacher` is missing in this script.", callbacks()[1:]),
        (
            "Differing: no `TerminateOnNaN` of the backup clearly",
            [*callbacks(), nan],
        ),
    ):
        assert message in told(folder, wake(), *given)
    found = told(folder, wake(), batch_size=2)
    assert differs("batch_size", 3, 2) in found


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
    model = with_sgd(0.4)
    kw.BackupAndRestore(tmp_path).restore(model)
    with pytest.warns(UserWarning, match=differs("learning_rate", 0.2, 0.4)):
        fit(model, tmp_path, Halve(), epochs=4)
    assert rate_of(model) == pytest.approx(0.2)


def test_schedule_takes_the_place_of_a_rate_and_back(folder, tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model = with_sgd(schedule)
    message = r"learning_rate: 0\.2 in the backup, Expon"
    with pytest.warns(UserWarning, match=message):
        fit(model, folder, *callbacks()[:1], epochs=2)
    # Four steps of the schedule, two of them before.
    assert rate_of(model) == pytest.approx(0.1 * 0.5**0.4)
    model = with_sgd(0.3)
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


ONE = np.float32(1)


def functional(last="relu", factor=2.0, same=False, scale=1.0, rescale=ONE):
    inputs = keras.Input(SHAPE)
    first = keras.layers.Flatten()(inputs)
    second = keras.layers.Dense(16)(first)
    added = keras.layers.Add()([second, second] if same else [first, second])
    outputs = getattr(keras.ops, last)(added * factor)
    outputs = keras.layers.Rescaling(rescale)(Scaled(scale)(outputs))
    return keras.Model(inputs, keras.layers.Dense(3)(outputs))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"last": "silu"},
            "operation 6 of the network is `Relu` in the backup and `Silu` in",
        ),
        (
            {"factor": 3.0},
            "operation 5 of the network (Multiply) takes other inputs in this",
        ),
        (
            {"same": True},
            "operation 4 of the network (Add) takes other inputs in this",
        ),
        # What only `get_config` tells.
        (
            {"scale": 3.0},
            "`factor` of layer 4 (Scaled): 1 in the backup, 3 in this",
        ),
        (
            {"rescale": np.float32(3)},
            "`scale` of layer 5 (Rescaling): 1 in the backup, 3 in this",
        ),
        (
            {"rescale": np.ones(16)},
            "`scale` of layer 5 (Rescaling): 1 in the backup, [1.0, 1.0,",
        ),
    ],
)
def test_operations_connections_and_any_setting_are_compared(changed, message):
    saved, same, current = (
        run_record.run_record(wake(functional(**each)), [], {})
        for each in ({}, {}, changed)
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
    x, y = small.data(6)

    def state(model, **data):
        data = fit_checks.data_settings({"x": x, "y": y, **data})
        record = run_record.run_record(model, [], data)
        return {"settings": run_record.settings_of(model), "record": record}

    frozen = network()
    frozen.layers[1].trainable = False
    old = state(wake())
    shifts = [state(wake(eval_attack=Shift(size))) for size in (0.01, 0.02)]
    growths = [
        state(wake(optimizer=scaled(dynamic_growth_steps=steps)))
        for steps in (2000, 3)
    ]
    weighted = state(wake(), sample_weight=np.ones(6))
    of_dense = "`trainable` of layer 2 (Dense)"
    of_scaling = "LossScaleOptimizer(SGD) dynamic_growth_steps"
    assert run_record.differences(old, state(wake()), {}) == []
    for pair, message in (
        ((old, state(wake(frozen))), differs(of_dense, True, False)),
        ((old, state(wake(), x=x[:3], y=y[:3])), differs("images", 6, 3)),
        ((old, weighted), differs("sample_weight", False, True)),
        (shifts, "eval_attack: Shift {"),
        (growths, f"{of_scaling}: 2000 in the backup"),
    ):
        (found,) = run_record.differences(*pair, {})
        assert found.startswith(message)
    for rate in (0.1, 0.2):
        model = wake(optimizer=SGD(Constant(rate)))
        record = run_record.run_record(model, [], {})
        assert f"{{'rate': {rate}}}" in record["learning_rate"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: wake(network(activation="relu")),
            r"`activation` of layer 2 \(Dense\): elu in the backup, relu in",
        ),
        (
            lambda: wake(network(more=[keras.layers.ReLU()])),
            "layer 5 is `Dense` in the backup and `ReLU` in this script",
        ),
        (
            lambda: wake(network(units=9)),
            r"`units` of layer 2 \(Dense\): 8 in the backup, 9 in this",
        ),
        (
            lambda: wake(optimizer=keras.optimizers.RMSprop(0.2, momentum=0.9)),
            "the optimizer is SGD in the backup and RMSprop in this script",
        ),
    ],
)
def test_backup_of_another_model_is_refused(folder, tmp_path, make, message):
    model = make()
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
    assert_same(model.get_weights(), before)


def test_dropout_and_momentum_that_are_switched_on_begin_anew(tmp_path):
    old = wake(network(rate=0), optimizer=SGD(0.2))
    fit(old, tmp_path, *callbacks())
    model = wake()
    found = told(tmp_path, model)
    assert differs(DROPOUT, 0, 0.25) in found
    assert differs("SGD momentum", 0, 0.9) in found
    assert "variables of the optimizer that begin anew: 6" in found
    for name in ("classifier", "teacher"):
        before, after = getattr(old, name), getattr(model, name)
        assert_same(before.get_weights(), after.get_weights())
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


@contextlib.contextmanager
def edited(folder):
    """Changes the state in the backup, as if it had been written so."""
    state, values = archive.read(folder / "backup.npz")
    yield state
    archive.write(folder / "backup.npz", state, values)


def test_optimizer_of_an_older_backup_is_not_taken_apart(folder):
    with edited(folder) as state:
        del state["record"]["variables"]
    assert told(folder, wake()) == ""
    message = "does not fit.*It has 30 values for 24 variables"
    with pytest.raises(ValueError, match=message):
        fit(wake(optimizer=SGD(0.2)), folder, epochs=2)


def test_backup_of_an_older_version_cannot_be_compared(folder):
    with edited(folder) as state:
        for name in ("record", "epochs", "stopped"):
            del state[name]
        for name in ("eval_attack", "scale_distillation"):
            del state["settings"][name]
    model = with_sgd(0.05)
    found = told(folder, model)
    assert "written by an older keras-wake" in found
    assert "cannot be compared" in found
    assert rate_of(model) == pytest.approx(0.2)


def test_settings_of_a_layer_in_two_dictionaries(folder):
    """As earlier versions wrote them."""
    with edited(folder) as state:
        for layer in state["record"]["layers"]:
            layer["more"] = {"trainable": layer["given"].pop("trainable")}
    assert told(folder, wake()) == ""


def test_backup_of_another_backend_draws_other_masks(folder):
    with edited(folder) as state:
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
    for name in ("ModelCheckpoint", "Remembers"):
        assert f"`{name}` is missing in this script" in found

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
    message = "of the best model (high: 9) is missing"
    assert any(message in str(w.message) for w in caught)
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
    with pytest.raises(ValueError, match="compile"):
        fit(kw.WakeModel(network(), PGD), tmp_path)
