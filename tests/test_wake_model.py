"""WakeModel: its logs against stand-alone computation, and its refusals."""

import keras
import numpy as np
import pytest
import small

import keras_wake as kw
from keras_wake import backend

CLASSES = 3
SHAPE = (6, 6, 1)
ATTACK = kw.attacks.PGD(epsilon=0.1, steps=3, random_start=False)

# `trained` is compiled all the same: it is made before this acts.
pytestmark = pytest.mark.usefixtures("eagerly")

# One float32 sum of at most a few hundred numbers, in another order.
TOLERANCE = 1e-5


def network(seed=0):
    """Two layers with weights, and batch norm away from its defaults."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ELU(),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, name="logits"),
        ]
    )
    model.get_layer("norm").moving_mean.assign([0.1, -0.1, 0.2, 0.0])
    return model


def data(count=22, seed=0):
    return small.data(count, seed, SHAPE)


def logits_of(classifier, x):
    return keras.ops.convert_to_numpy(classifier(x, training=False))


def cross_entropy(labels, logits):
    logits = logits.astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels]


def measured(classifier, x, y, attack=ATTACK):
    """Clean and robust accuracy and the robust loss, on all images at once."""
    adversarial = attack(classifier, x, y)
    clean, robust = logits_of(classifier, x), logits_of(classifier, adversarial)
    return {
        "accuracy": np.mean(clean.argmax(1) == y),
        "robust_accuracy": np.mean(robust.argmax(1) == y),
        "loss": np.mean(cross_entropy(y, robust)),
    }


def wake(classifier=None, metrics=None, **arguments):
    arguments = {"attack": ATTACK, "eval_attack": ATTACK, **arguments}
    model = kw.WakeModel(classifier or network(), **arguments)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, metrics=metrics)
    return model


def fit(model, *callbacks, **arguments):
    """The logs of a run on `data()`."""
    arguments = {"callbacks": list(callbacks), "verbose": 0, **arguments}
    return model.fit(*data(), **arguments).history


def evaluate(model, x, y, **arguments):
    return model.evaluate(x, y, verbose=0, return_dict=True, **arguments)


@pytest.fixture(scope="module")
def trained():
    """A model trained with everything on, and what was seen on the way."""
    x, y = data()
    validation = data(seed=1)
    seen = {}

    class Elsewhere(keras.callbacks.Callback):
        """Evaluates other data in between, as users do."""

        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = evaluate(self.model, x[:8], y[:8], batch_size=4)
            seen[epoch, "matrix"] = attribution.correlation

    top_two = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_two")
    ramp = kw.schedules.DistillationRamp(1, 3, final=0.5)
    model = wake(schedule=ramp, metrics=[top_two])
    attribution = kw.CrossClassAttribution()
    callbacks = kw.EMATeacher(0.5), attribution, Elsewhere()
    history = fit(
        model, *callbacks, batch_size=5, epochs=3, validation_data=validation
    )
    return model, history, validation, attribution, seen


EVALUATED = [
    *("loss", "accuracy", "robust_accuracy", "top_two"),
    *("teacher_accuracy", "teacher_robust_accuracy"),
]


def test_logs_have_the_documented_keys(trained):
    _, history, _, _, _ = trained
    validated = [f"val_{key}" for key in (*EVALUATED, "cas", "teacher_cas")]
    assert set(history) == {"loss", "robust_accuracy", "kd_weight", *validated}
    assert history["kd_weight"] == pytest.approx([0.0, 0.5, 0.5])


def test_validation_logs_equal_stand_alone_computation(trained):
    model, history, (x, y), attribution, _ = trained
    expected = {
        f"val_{key}": value
        for key, value in measured(model.classifier, x, y).items()
    }
    of_teacher = measured(model.teacher, x, y)
    expected["val_teacher_accuracy"] = of_teacher["accuracy"]
    expected["val_teacher_robust_accuracy"] = of_teacher["robust_accuracy"]
    ranks = (-logits_of(model.classifier, x)).argsort(1)[:, :2]
    expected["val_top_two"] = np.mean((ranks == y[:, None]).any(1))
    matrices = [
        kw.attribution.correlation_matrix(network, (x, y), attack=ATTACK)
        for network in (model.classifier, model.teacher)
    ]
    expected["val_cas"] = kw.attribution.cas(matrices[0])
    expected["val_teacher_cas"] = kw.attribution.cas(matrices[1])
    for key, value in expected.items():
        assert history[key][-1] == pytest.approx(value, abs=TOLERANCE), key
    found = attribution.correlation, attribution.teacher_correlation
    np.testing.assert_allclose(found, matrices, atol=TOLERANCE)
    # Student and teacher must differ, or the comparison shows little.
    assert abs(expected["val_cas"] - expected["val_teacher_cas"]) > 1e-3


def test_another_evaluation_during_fit_leaves_attribution_alone(trained):
    _, history, _, attribution, seen = trained
    assert [entry["epoch"] for entry in attribution.history] == [1, 2, 3]
    for epoch, entry in enumerate(attribution.history):
        matrix, cas = entry["correlation"], history["val_cas"][epoch]
        assert np.isfinite(matrix).all()
        assert entry["cas"] == pytest.approx(cas, abs=TOLERANCE)
        # Kept in float32.
        assert np.array_equal(matrix, np.float32(seen[epoch, "matrix"]))
        assert "accuracy" in seen[epoch]


def test_evaluate_outside_fit(trained):
    model, history, (x, y), _, _ = trained
    # Another batch size, so another last batch; the same numbers.
    logs = evaluate(model, x, y, batch_size=7)
    last = {key: history[f"val_{key}"][-1] for key in EVALUATED}
    assert logs == pytest.approx(last, abs=TOLERANCE)
    values = model.evaluate(x, y, batch_size=7, verbose=0)
    assert values == pytest.approx([logs[key] for key in EVALUATED], abs=1e-6)
    assert model.metrics_names[:2] == ["loss", "robust_accuracy"]
    assert "input_faults" not in model.metrics_names
    model = wake(eval_attack=kw.attacks.PGD(epsilon=0.3, steps=1))
    first, second = (model.evaluate(x, y, verbose=0) for _ in range(2))
    assert first == second  # With random starts, too.


def test_evaluate_outside_fit_with_attribution(trained):
    model, history, (x, y), _, _ = trained
    callback = kw.CrossClassAttribution()
    logs = evaluate(model, x, y, batch_size=7, callbacks=[callback])
    for key in ("cas", "teacher_cas"):
        last = pytest.approx(history[f"val_{key}"][-1], abs=TOLERANCE)
        assert logs[key] == last
        assert getattr(callback, key) == pytest.approx(logs[key], abs=TOLERANCE)
    assert "cas" not in evaluate(model, x, y, batch_size=7)


def test_what_the_model_returns(trained):
    model, _, (x, _), _, _ = trained
    expected = logits_of(model.classifier, x)
    called = keras.ops.convert_to_numpy(model(x))
    for found in (called, model.predict(x, batch_size=7, verbose=0)):
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    # The teacher, once it is in use.
    assert model.robust_classifier is model.teacher
    fresh = wake()
    assert fresh.robust_classifier is fresh.classifier


def test_single_batches():
    model = wake()
    x, y = data(8)
    expected = measured(model.classifier, x, y)
    logs = model.test_on_batch(x, y, return_dict=True)
    assert logs == pytest.approx(expected, abs=TOLERANCE)
    before = model.classifier.get_weights()
    model.reset_metrics()
    trained = model.train_on_batch(x, y, return_dict=True)
    assert set(trained) == {"loss", "robust_accuracy", "kd_weight"}
    assert int(model.train_steps) == 1
    assert np.abs(model.classifier.get_weights()[0] - before[0]).max() > 0
    with pytest.raises(ValueError, match=r"1 image\(s\) of this batch contain"):
        model.test_on_batch(np.where(x == x[2, 1, 1, 0], np.nan, x), y)
    with pytest.raises(ValueError, match=r"8 image\(s\) of this batch lie"):
        model.train_on_batch(x + 2, y)
    # What was wrong then is not held against what comes now.
    fit(model)


def test_evaluate_of_a_standard_objective():
    model = kw.WakeModel(network(), attack=None, objective="standard")
    model.compile()
    x, y = data()
    weights = np.linspace(0.1, 2, len(x))
    logs = evaluate(model, x, y, sample_weight=weights, batch_size=5)
    clean = logits_of(model.classifier, x)
    assert model.eval_attack.steps == 20
    loss = np.mean(weights * cross_entropy(y, clean))
    assert logs["loss"] == pytest.approx(loss, abs=TOLERANCE)
    # Accuracy counts images; it has no weights.
    accuracy = np.mean(clean.argmax(1) == y)
    assert logs["accuracy"] == pytest.approx(accuracy, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("norm", "epsilon", "share"), [("linf", 0.1, 4), ("l2", 0.5, 8)]
)
def test_default_evaluation_is_pgd_20_in_the_same_threat_model(
    norm, epsilon, share
):
    attack = kw.attacks.FGSM(norm, epsilon, bounds=(-1, 1))
    model = kw.WakeModel(network(), attack)
    assert model.eval_attack.get_config() == {
        "norm": norm,
        "epsilon": epsilon,
        "bounds": [-1.0, 1.0],
        "step_size": epsilon / share,
        "steps": 20,
        "random_start": True,
        "training": False,
        "loss": "cross_entropy",
    }


def test_teacher_starts_as_a_copy_that_is_not_trained():
    model = wake()
    own, copied = model.classifier, model.teacher
    small.assert_same(own.get_weights(), copied.get_weights())
    assert not {*map(id, own.weights)} & {*map(id, copied.weights)}
    trained = {id(v) for v in model.trainable_variables}
    assert trained == {id(v) for v in model.classifier.trainable_variables}
    frozen = {id(v) for v in model.non_trainable_variables}
    assert not trained & frozen
    assert trained | frozen == {id(v) for v in model.variables}


class Subclassed(keras.Model):
    """A model in which the head cannot be found."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.head = keras.layers.Dense(CLASSES, name="the_head")

    def call(self, inputs):
        return self.head(self.flatten(inputs))


def subclassed():
    keras.utils.set_random_seed(0)
    model = Subclassed()
    model(np.zeros((1, *SHAPE), "float32"))
    return model


def test_a_subclassed_model_works_with_its_head_named():
    model = wake(classifier=subclassed(), head="the_head")
    attribution = kw.CrossClassAttribution()
    fit(model, kw.EMATeacher(0.5), attribution, validation_data=data())
    expected = kw.attribution.correlation_matrix(
        model.teacher, data(), attack=ATTACK, head="the_head"
    )
    np.testing.assert_allclose(
        attribution.teacher_correlation, expected, atol=TOLERANCE
    )


def test_a_head_that_is_not_found_is_refused_when_it_is_needed():
    model = wake(classifier=subclassed())
    fit(model)
    with pytest.raises(ValueError, match=r"WakeModel\(..., head='layer name'"):
        fit(model, kw.CrossClassAttribution(), validation_data=data())
    with pytest.raises(ValueError, match="name of one layer"):
        wake(classifier=subclassed(), head="no_such_layer")


def softmax_network():
    model = small.network()
    model.layers[-1].activation = keras.activations.softmax
    return model


def convolution():
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classifier": softmax_network}, ValueError, "probabilities, not"),
        ({"classifier": convolution}, ValueError, r"logits of shape \(batch"),
        (
            {"classifier": lambda: keras.Sequential([keras.layers.Dense(3)])},
            ValueError,
            "is not built yet",
        ),
        (
            {"classifier": lambda: "resnet"},
            TypeError,
            "must be a `keras.Model`",
        ),
        (
            {"attack": None},
            ValueError,
            "'at' trains on adversarial.*attack=None",
        ),
        ({"attack": "pgd"}, TypeError, "`attack` must be an attack.*'pgd'"),
        ({"eval_attack": 3}, TypeError, "`eval_attack` must be an attack.*3"),
        (
            {"objective": "free"},
            ValueError,
            "`objective` must be one of.*'free'",
        ),
        ({"schedule": 0.5}, TypeError, "must be a `DistillationRamp`.*0.5"),
        (
            {"temperature": 0},
            ValueError,
            "`temperature` must be greater than 0",
        ),
        ({"temperature": -1.0}, ValueError, "temperature=-1.0"),
        ({"temperature": 1e7}, ValueError, "between 1e-06 and 1e[+]06"),
        (
            {"eval_attack": kw.attacks.PGD(bounds=(0, 2))},
            ValueError,
            r"the same bounds.*\(0.0, 1.0\) and \(0.0, 2.0\)",
        ),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
    ],
)
def test_constructor_refuses(arguments, error, message):
    arguments = {"classifier": network, "attack": ATTACK, **arguments}
    arguments["classifier"] = arguments["classifier"]()
    with pytest.raises(error, match=message):
        kw.WakeModel(**arguments)


def test_what_a_compiled_step_would_ignore_cannot_be_set():
    model = wake()
    for name, value in (
        ("attack", ATTACK),
        ("eval_attack", None),
        ("objective", "trades"),
        ("schedule", kw.schedules.DistillationRamp(1, 2)),
        ("temperature", 5.0),
        ("classifier", network()),
        ("teacher", network()),
        ("seed", 1),
    ):
        before = getattr(model, name)
        message = rf"`{name}` of .*Make a new `WakeModel`"
        with pytest.raises(AttributeError, match=message):
            setattr(model, name, value)
        assert getattr(model, name) is before
    model.of_a_subclass = 5
    model.trainable = False


def test_compile_refuses_a_loss():
    model = kw.WakeModel(network(), ATTACK)
    for given in ({"loss": "mse"}, {"loss_weights": [2.0]}):
        with pytest.raises(ValueError, match=r"its own loss.*loss_weights="):
            model.compile("sgd", **given)


def test_callbacks_refuse_any_other_model():
    model = network()
    model.compile(loss="sparse_categorical_crossentropy")
    own = kw.EMATeacher(), kw.CrossClassAttribution()
    for callback in (*own, kw.CatastrophicOverfitMonitor()):
        with pytest.raises(TypeError, match=r"works with `keras_wake\.Wake"):
            fit(model, callback)


def test_two_teachers_are_refused():
    with pytest.raises(ValueError, match=r"one average.*EMATeacher and EMAT"):
        fit(wake(), kw.EMATeacher(0.9), kw.EMATeacher(0.99))


def test_a_schedule_without_a_teacher_is_refused():
    model = wake(schedule=kw.schedules.DistillationRamp(1, 3))
    with pytest.raises(ValueError, match=r"no callback makes.*EMATeacher\(\)"):
        fit(model)
    # Also when an earlier fit had one.
    fit(model, kw.EMATeacher(), epochs=2)
    with pytest.raises(ValueError, match="no callback makes"):
        fit(model)


def test_a_second_fit_goes_on_and_one_without_teacher_leaves_it():
    model = wake()
    callback = kw.EMATeacher(0.5)
    for updates in (2, 4):
        fit(model, callback, batch_size=11)
        assert int(model.teacher_updates) == updates
    teacher = model.teacher.get_weights()
    student = model.classifier.get_weights()
    with pytest.warns(UserWarning, match="teacher of an earlier `fit` stays"):
        history = fit(model, validation_data=data(), batch_size=11)
    assert int(model.teacher_updates) == 4
    small.assert_same(teacher, model.teacher.get_weights())
    assert np.abs(student[0] - model.classifier.get_weights()[0]).max() > 0
    # It is what the algorithm returns, so it is still evaluated.
    assert model.robust_classifier is model.teacher
    assert "val_teacher_robust_accuracy" in history


def test_a_callback_list_works_in_place_of_a_list():
    model = wake()
    teacher = kw.EMATeacher(0.5)
    options = {"add_history": True, "model": model}
    callbacks = keras.callbacks.CallbackList([teacher], **options)
    history = model.fit(*data(), verbose=0, callbacks=callbacks)
    assert "robust_accuracy" in history.history
    assert int(model.teacher_updates) == 1
    x, y = data()
    x[5] = 2.0
    message = r"1 image\(s\) of epoch 1, batch 1 lie"
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("given", ["auto", True, False])
def test_the_choice_of_jit_compile_is_saved_as_it_was_given(given, tmp_path):
    model = kw.WakeModel(network(), ATTACK)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=given)
    # There is no GPU where this runs, so "auto" is yes on JAX alone.
    expected = backend.jit_by_default() if given == "auto" else given
    # PyTorch compiles no whole step.
    expected = expected and keras.backend.backend() != "torch"
    assert model.jit_compile is expected
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_compile_config()["jit_compile"] == given
    assert loaded.jit_compile is expected


class WithoutConfig(Subclassed):
    """A subclassed model as many are written: it cannot be made again."""

    def __init__(self, head):
        super().__init__()
        self.head = head


def test_a_classifier_that_cannot_be_copied_is_refused():
    classifier = WithoutConfig(keras.layers.Dense(CLASSES))
    classifier(data()[0])
    with pytest.raises(ValueError, match=r"copied for the teacher.*get_config"):
        kw.WakeModel(classifier, ATTACK)


def test_images_of_weight_0_take_no_part_in_evaluation(trained):
    # Pipelines fill the last batch up where devices must have equal shares.
    model = trained[0]
    x, y = data(13, seed=5)
    filled = np.concatenate([x, data(5, seed=6)[0]])
    labels = np.concatenate([y, np.zeros(5, "int32")])
    weights = np.repeat([1.0, 0.0], [13, 5]).astype("float32")
    results, matrices = [], []
    for *pair, given in ((x, y, None), (filled, labels, weights)):
        attribution = kw.CrossClassAttribution()
        options = {"callbacks": [attribution], "sample_weight": given}
        results.append(evaluate(model, *pair, batch_size=9, **options))
        matrices.append(attribution.correlation)
    # What was given to `compile` as `metrics` is without weights in Keras.
    assert results[0].pop("top_two") != results[1].pop("top_two")
    assert results[1] == pytest.approx(results[0], abs=TOLERANCE)
    np.testing.assert_allclose(*matrices, atol=TOLERANCE)
    # Without the weights the five others do count.
    all_of_them = evaluate(model, filled, labels)
    assert abs(all_of_them["loss"] - results[0]["loss"]) > 1e-3


def test_evaluation_within_an_epoch_leaves_its_logs_alone():
    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.evaluate(*data(7, seed=8), verbose=0)

    options = {"batch_size": 6, "shuffle": False}
    expected = fit(wake(), **options)
    found = fit(wake(), Evaluate(), **options)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=TOLERANCE), name


def test_pipelines_are_not_said_to_be_shuffled(recwarn):
    model = wake()
    model.fit((pair for pair in [data()]), verbose=0)
    assert not [w for w in recwarn if "shuffle" in str(w.message)]
    with pytest.warns(UserWarning, match="`shuffle=True` was passed"):
        model.fit((pair for pair in [data()]), shuffle=True, verbose=0)


class NotANumber(keras.layers.Layer):
    """NaN for images that are darker than others."""

    def call(self, x):
        dark = keras.ops.mean(x, axis=1, keepdims=True) < 0.5
        return keras.ops.where(dark, float("nan"), x)


def test_logits_of_nan_are_no_answer():
    classifier = small.network(lambda: [NotANumber()], SHAPE)
    classifier.layers[-1].kernel.assign(np.zeros((36, CLASSES)))
    model = wake(classifier=classifier, attack=None, objective="standard")
    x = np.full((4, *SHAPE), 0.1, "float32")
    x[0] = 0.9
    y = np.zeros(4, "int32")
    # All zeros: class 0, which is the label; three images in four are NaN.
    log = evaluate(model, x, y)
    assert log["accuracy"] == 0.25
    assert log["robust_accuracy"] <= 0.25
    logits = np.full((2, CLASSES), 0.0, "float32")
    logits[1, 2] = np.nan
    labels = np.eye(CLASSES, dtype="float32")[[0, 2]]
    found = keras.ops.convert_to_numpy(kw.backend.numerics.hits(labels, logits))
    assert found.tolist() == [1.0, 0.0]


def test_export_is_that_of_the_robust_classifier(monkeypatch, tmp_path):
    model = wake()
    given = []

    def export(*args, **kwargs):
        given.append((*args, kwargs))

    monkeypatch.setattr(keras.Model, "export", export)
    model.export(tmp_path, format="onnx")
    assert given == [(model.classifier, tmp_path, {"format": "onnx"})]


def test_a_wake_model_is_no_classifier():
    model = wake()
    x, y = data()
    for use in (
        lambda: kw.attacks.PGD(steps=1)(model, x, y),
        lambda: kw.evaluation.robust_accuracy(model, (x, y), ATTACK),
        lambda: kw.attribution.correlation_matrix(model, (x, y)),
        lambda: kw.attribution.find_head(model),
        lambda: kw.models.reestimate_batch_norm(model, (x, y)),
        lambda: kw.WakeModel(model, ATTACK),
        lambda: kw.PretrainedTeacher(model, 0.5),
    ):
        with pytest.raises(TypeError, match=r"holds two.*robust_classifier`"):
            use()


def test_a_bad_sample_weight_is_refused_and_the_network_survives():
    model, (x, y) = wake(), data()
    before = model.get_weights()
    for weight in (np.nan, np.inf, -1.0):
        weights = np.ones(len(x), "float32")
        weights[7] = weight
        with pytest.raises(ValueError, match=r"1 sample weight\(s\) of"):
            fit(model, sample_weight=weights, batch_size=5)
    # Nor does a label that names no class leave a trace.
    with pytest.raises(ValueError, match="name no class"):
        model.fit(x, y + 5, verbose=0)
    small.assert_same(model.get_weights(), before)


def test_files_of_another_kind_are_refused_and_stay(tmp_path):
    model = wake()
    for save, name, ending in (
        (model.save, "model.h5", r"`\.keras`.*Received"),
        (model.save, "model", r"`\.keras`"),
        (model.save, "model.weights.h5", r"`\.keras`"),
        (model.save_weights, "model.h5", r"`\.weights\.h5`"),
        (model.save_weights, "model.keras", r"`\.weights\.h5`"),
        (model.save_weights, "weights.json", r"`\.weights\.h5`"),
    ):
        path = tmp_path / name
        path.write_text("the old file")
        with pytest.raises(ValueError, match=f"must end in {ending}"):
            save(path)
        assert path.read_text() == "the old file"
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "model.h5")
    with pytest.raises(ValueError, match=r"`ModelCheckpoint` must end in"):
        fit(model, checkpoint)
    assert (tmp_path / "model.h5").read_text() == "the old file"
