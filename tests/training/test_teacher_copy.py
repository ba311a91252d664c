"""The teacher computes what the student computes, or is refused by name."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_wake as kw

pytestmark = pytest.mark.usefixtures("eagerly")

SHAPE = (4, 4, 1)
CLASSES = 3
ATTACK = kw.attacks.FGSM(epsilon=0.1)
TORCH = keras.backend.backend() == "torch"


def data(count=8):
    x = np.random.default_rng(0).random((count, *SHAPE), np.float32)
    return x, np.arange(count, dtype="int32") % CLASSES


def ended(*first, head="glorot_uniform"):
    """These layers, then a linear head."""
    keras.utils.set_random_seed(0)
    end = layers.Dense(CLASSES, kernel_initializer=head)
    return keras.Sequential([keras.Input(SHAPE), *first, layers.Flatten(), end])


def logits(network):
    return ops.convert_to_numpy(network(data()[0], training=False))


def assert_equal(network, other):
    np.testing.assert_array_equal(logits(network), logits(other))


class Scaled(layers.Layer):
    """Multiplies by what is set after it was made."""

    scale = 1.0

    def call(self, x):
        if callable(self.scale):
            return self.scale(x)
        return x * self.scale


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class SubclassedScale(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten = layers.Flatten()
        self.logits = layers.Dense(CLASSES, name="logits")
        self._scale = 1.0

    def call(self, x):
        return self.logits(self.flatten(x)) * self._scale


def adapted():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(1).normal(3, 2, (40, *SHAPE)))
    return ended(normalization)


def given_statistics():
    """Set as weights, and not taken up: what counts is what is computed."""
    network = ended(layers.Normalization())
    statistics = network.layers[0].get_weights()
    network.layers[0].set_weights(
        [statistics[0] + 0.5, statistics[1] * 4, *statistics[2:]]
    )
    return network


def with_attribute(value):
    network = ended(Scaled())
    network.layers[0].scale = value
    return network


def subclassed():
    network = SubclassedScale()
    network(data()[0])
    network._scale = 2.0
    return network


def with_lora():
    network = ended()
    network.layers[-1].enable_lora(2)
    a, b = network.layers[-1].lora_kernel_a, network.layers[-1].lora_kernel_b
    b.assign(np.ones(b.shape))
    assert a.shape[-1] == 2
    return network


def quantised():
    network = ended(layers.Flatten(), layers.Dense(8))
    network.quantize("int8")
    return network


def doubled(x):
    return 2 * x


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        adapted,
        given_statistics,
        lambda: with_attribute(3.0),
        lambda: with_attribute(np.full(SHAPE, 2.0, "float32")),
        lambda: with_attribute(doubled),
        subclassed,
        with_lora,
        quantised,
        lambda: ended(layers.Lambda(lambda x: 3 * x)),
        lambda: with_attribute(float("nan")),
    ],
)
def test_computes_the_same(make):
    network = make()
    before = logits(network)
    model = kw.WakeModel(network, ATTACK)
    assert_equal(model.teacher, model.classifier)
    np.testing.assert_array_equal(logits(network), before)


def test_validates_and_distils_as_the_student_does():
    ramp = kw.schedules.DistillationRamp(0, 1, final=0.5)
    model = kw.WakeModel(adapted(), ATTACK, eval_attack=ATTACK, schedule=ramp)
    model.compile(keras.optimizers.SGD(0.0))
    log = model.fit(
        *data(),
        validation_data=data(),
        verbose=0,
        callbacks=[kw.EMATeacher(0.5)],
    ).history
    assert log["val_teacher_accuracy"] == log["val_accuracy"]
    assert log["val_teacher_robust_accuracy"] == log["val_robust_accuracy"]


def test_a_loaded_model_has_equal_networks(tmp_path):
    model = kw.WakeModel(adapted(), ATTACK)
    model.save(tmp_path / "wake.keras")
    loaded = keras.models.load_model(tmp_path / "wake.keras")
    for network in (loaded.classifier, loaded.teacher):
        assert_equal(network, model.classifier)
    again = kw.WakeModel.from_config(model.get_config())
    assert_equal(again.teacher, again.classifier)


def test_an_attribute_set_before_fit_reaches_the_teacher():
    network = ended(Scaled())
    model = kw.WakeModel(network, ATTACK)
    model.compile(keras.optimizers.SGD(0.0))
    network.layers[0].scale = 2.0
    model.fit(*data(), verbose=0)
    assert_equal(model.teacher, network)


class Hidden:
    """Of a kind that cannot be copied: it may refer to anything."""

    def __call__(self, x):
        return 2 * x


@pytest.mark.parametrize("head", ["glorot_uniform", "zeros"])
def test_what_cannot_be_copied_is_refused_by_name(head):
    # Also behind a head that starts at 0, and shows nothing.
    network = ended(Scaled(name="hidden"), head=head)
    network.layers[0].scale = Hidden()
    with pytest.raises(
        ValueError,
        match=r"copied for the teacher.*something else, from layer 'hidden' "
        r"\(of type Scaled\) on",
    ):
        kw.WakeModel(network, ATTACK)


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class Keeping(layers.Layer):
    """A layer whose configuration holds the layer within itself."""

    def __init__(self, within, **kwargs):
        super().__init__(**kwargs)
        self.within = within

    def build(self, shape):
        if not self.within.built:
            self.within.build(shape)

    def call(self, x):
        return self.within(x)

    def get_config(self):
        return {"within": self.within}


def test_a_copy_that_shares_variables_is_refused():
    network = ended(layers.Flatten(), Keeping(layers.Dense(4)))
    with pytest.raises(ValueError, match="shares 2 variables"):
        kw.WakeModel(network, ATTACK)


class Noisy(layers.Layer):
    """Random at inference, from a state of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


def test_one_that_is_random_is_not_compared_and_nothing_is_left_behind():
    network = ended(Noisy(), layers.BatchNormalization())
    # The check of the classifier calls it too, and is not what this is about.
    images = kw.data.classifier.probe_images(network)
    first, second = kw.training.teacher_copy._logits(network, images, {}, 2)
    assert np.abs(first - second).max() > 0.1
    before = [ops.convert_to_numpy(v).copy() for v in network.variables]
    kw.training.teacher_copy.copy_of(network, (0.0, 1.0))
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def test_images_are_within_the_bounds_and_of_any_size():
    inputs = keras.Input((None, None, 3))
    pooled = layers.GlobalAveragePooling2D()(inputs)
    network = keras.Model(inputs, layers.Dense(CLASSES)(pooled))
    images = ops.convert_to_numpy(
        kw.data.classifier.probe_images(network, (-5.0, 250.0))
    )
    assert images.shape == (4, 32, 32, 3)
    assert -5 <= images.min() < 0 and 200 < images.max() <= 250
    kw.WakeModel(network, kw.attacks.FGSM(epsilon=1, bounds=(-5, 250)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_compared_with_its_own_tolerance(policy):
    network = ended(layers.Flatten(), layers.Dense(8, dtype=policy))
    model = kw.WakeModel(network, ATTACK)
    assert kw.training.teacher_copy._tolerance(network) > 1e-3
    assert_equal(model.teacher, network)


def fit(model, *callbacks):
    return model.fit(*data(), verbose=0, callbacks=list(callbacks))


def exchange_the_head(network):
    network.pop()
    network.add(layers.Dense(CLASSES))


@pytest.mark.parametrize(
    "change, received",
    [
        (
            lambda network: network.layers[-1].enable_lora(2),
            "4 variables, and 2 before, of which 2 are the same",
        ),
        (exchange_the_head, "2 variables, and 2 before, of which 0 are"),
    ],
)
def test_a_classifier_with_other_variables_is_refused(change, received):
    network = ended()
    model = kw.WakeModel(network, ATTACK)
    model.compile(keras.optimizers.SGD(0.1))
    change(network)
    for run in (
        lambda: fit(model, kw.EMATeacher()),
        lambda: model.evaluate(*data(), verbose=0),
    ):
        with pytest.raises(
            ValueError,
            match=r"has changed.*Make a new `WakeModel`.*" + received,
        ):
            run()
    again = kw.WakeModel(network, ATTACK)
    again.compile(keras.optimizers.SGD(0.1))
    fit(again, kw.EMATeacher())


class Box:
    """Cannot be compared: only what it computes tells its value."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return x * self.value


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class Boxed(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.box = Box(1.0)

    def call(self, x):
        return self.box(x)


def test_a_classifier_that_computes_something_else_by_now_is_refused():
    network = ended(Boxed(), layers.BatchNormalization(), layers.Dropout(0.5))
    model = kw.WakeModel(network, ATTACK)
    model.compile(keras.optimizers.SGD(0.1))
    fit(model, kw.EMATeacher(0.5))
    # The weights differ by now, the functions do not.
    fit(model, kw.EMATeacher(0.5))
    network.layers[0].box.value = 3.0
    callbacks = (kw.EMATeacher(0.5), kw.StochasticWeightAveraging(1))
    for callback in callbacks:
        with pytest.raises(
            ValueError, match=r"has changed since.*Make a new `WakeModel`"
        ):
            fit(model, callback)
    network.layers[0].box.value = 1.0
    fit(model, kw.EMATeacher(0.5))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_network_in_float8_is_refused():
    network = ended(layers.Flatten(), layers.Dense(8))
    network.quantize("float8")
    with pytest.raises(ValueError, match="to float8 after training only"):
        kw.WakeModel(network, ATTACK)


def test_a_layer_that_is_switched_on_needs_compile():
    network = ended(layers.Conv2D(2, 2))
    network.layers[0].trainable = False
    model = kw.WakeModel(network, ATTACK)
    model.compile(keras.optimizers.SGD(0.1))
    fit(model, kw.EMATeacher())
    network.layers[0].trainable = True
    with pytest.raises(
        ValueError, match=r"call `compile` again.*4 trainable variables, and 2"
    ):
        fit(model, kw.EMATeacher())
    model.compile(keras.optimizers.SGD(0.1))
    before = ops.convert_to_numpy(network.layers[0].kernel).copy()
    fit(model, kw.EMATeacher())
    after = ops.convert_to_numpy(network.layers[0].kernel)
    assert np.abs(after - before).max() > 0


def test_the_two_networks_have_names_of_their_own():
    model = kw.WakeModel(ended(), ATTACK)
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert model.teacher.name == f"{model.classifier.name}_teacher"
    for name in (model.classifier.name, model.teacher.name):
        assert f" {name} " in text
    assert "dense" not in text


def torch_network():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 3)
    )
    module[1].running_mean[:] = 0.5
    wrapper = layers.TorchModuleWrapper(module, output_shape=(None, 3))
    return keras.Sequential([keras.Input(SHAPE), wrapper]), module[1]


@pytest.mark.skipif(not TORCH, reason="PyTorch's modules are for PyTorch")
def test_buffers_of_a_pytorch_module_are_copied_and_averaged():
    network, norm = torch_network()
    model = kw.WakeModel(network, ATTACK)
    assert_equal(model.teacher, network)
    start = norm.running_mean.clone().numpy()
    model.compile(keras.optimizers.SGD(0.1))
    fit(model, kw.EMATeacher(0.75))
    moved = norm.running_mean.numpy()
    assert np.abs(moved - start).max() > 1e-3
    averaged = model.teacher.layers[0].module[1].running_mean.numpy()
    # One step: θ̄ ← α θ̄ + (1 − α) θ, in float32.
    np.testing.assert_allclose(averaged, 0.75 * start + 0.25 * moved, rtol=1e-6)


@pytest.mark.skipif(not TORCH, reason="PyTorch's modules are for PyTorch")
def test_statistics_of_a_pytorch_module_are_not_reestimated_but_refused():
    network, norm = torch_network()
    before = norm.running_mean.clone().numpy()
    with pytest.raises(ValueError, match=r"PyTorch module.*own statistics"):
        kw.models.reestimate_batch_norm(network, data())
    np.testing.assert_array_equal(norm.running_mean.numpy(), before)


@pytest.mark.skipif(not TORCH, reason="PyTorch's modules are for PyTorch")
def test_a_backup_without_the_statistics_of_a_module_is_refused(tmp_path):
    network, _ = torch_network()
    model = kw.WakeModel(network, ATTACK)
    model.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="statistics of a PyTorch module"):
        fit(model, kw.callbacks.BackupAndRestore(tmp_path))
