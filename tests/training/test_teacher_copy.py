"""The teacher computes what the student computes, or is refused by name."""

import keras
import numpy as np
import pytest
import small
from keras import layers
from keras import ops
from small import CLASSES
from small import SHAPE

import keras_wake as kw

pytestmark = pytest.mark.usefixtures("eagerly")

ATTACK = small.FGSM
DATA = small.data(8)


def ended(*first, head="glorot_uniform"):
    """These layers, then a linear head."""
    keras.utils.set_random_seed(0)
    end = layers.Dense(CLASSES, kernel_initializer=head)
    return keras.Sequential([keras.Input(SHAPE), *first, layers.Flatten(), end])


def logits(network):
    return ops.convert_to_numpy(network(DATA[0], training=False))


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
    network(DATA[0])
    network._scale = 2.0
    return network


def with_lora():
    network = ended()
    network.layers[-1].enable_lora(2)
    b = network.layers[-1].lora_kernel_b
    b.assign(np.ones(b.shape))
    return network


def quantised():
    network = ended(layers.Flatten(), layers.Dense(8))
    network.quantize("int8")
    return network


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        adapted,
        given_statistics,
        lambda: with_attribute(3.0),
        lambda: with_attribute(np.full(SHAPE, 2.0, "float32")),
        lambda: with_attribute(keras.ops.square),
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
    still = keras.optimizers.SGD(0.0)
    model = small.wake(adapted(), optimizer=still, schedule=ramp)
    average = kw.EMATeacher(0.5)
    log = small.fit(model, average, validation_data=DATA).history
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
    model = small.wake(network, optimizer=keras.optimizers.SGD(0.0))
    network.layers[0].scale = 2.0
    small.fit(model)
    assert_equal(model.teacher, network)


class Box:
    """Cannot be copied or compared: only what it computes tells its value."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return x * self.value


@pytest.mark.parametrize("head", ["glorot_uniform", "zeros"])
def test_what_cannot_be_copied_is_refused_by_name(head):
    # Also behind a head that starts at 0, and shows nothing.
    network = ended(Scaled(name="hidden"), head=head)
    network.layers[0].scale = Box(2.0)
    place = r"from layer 'hidden' \(of type Scaled\) on"
    message = f"copied for the teacher.*something else, {place}"
    with pytest.raises(ValueError, match=message):
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
    model = small.wake(network)
    change(network)
    message = r"has changed.*Make a new `WakeModel`.*" + received
    for run in (
        lambda: small.fit(model, kw.EMATeacher()),
        lambda: model.evaluate(*DATA, verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            run()
    small.fit(small.wake(network), kw.EMATeacher())


@keras.saving.register_keras_serializable(package="keras_wake_tests")
class Boxed(Scaled):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = Box(1.0)


def test_a_classifier_that_computes_something_else_by_now_is_refused():
    network = ended(Boxed(), layers.BatchNormalization(), layers.Dropout(0.5))
    model = small.wake(network)
    small.fit(model, kw.EMATeacher(0.5))
    # The weights differ by now, the functions do not.
    small.fit(model, kw.EMATeacher(0.5))
    network.layers[0].scale.value = 3.0
    message = r"has changed since.*Make a new `WakeModel`"
    for callback in (kw.EMATeacher(0.5), kw.StochasticWeightAveraging(1)):
        with pytest.raises(ValueError, match=message):
            small.fit(model, callback)
    network.layers[0].scale.value = 1.0
    small.fit(model, kw.EMATeacher(0.5))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_network_in_float8_is_copied_or_refused():
    network = ended(layers.Flatten(), layers.Dense(8))
    network.quantize("float8")
    if not keras.__version__.startswith("3.15"):
        # Keras makes it again from its configuration.
        assert_equal(network, kw.WakeModel(network, ATTACK).teacher)
        return
    with pytest.raises(ValueError, match="to float8 after training only"):
        kw.WakeModel(network, ATTACK)


def test_a_layer_that_is_switched_on_needs_compile():
    network = ended(layers.Conv2D(2, 2))
    layer = network.layers[0]
    layer.trainable = False
    model = small.wake(network)
    small.fit(model, kw.EMATeacher())
    layer.trainable = True
    message = r"call `compile` again.*4 trainable variables, and 2"
    with pytest.raises(ValueError, match=message):
        small.fit(model, kw.EMATeacher())
    model.compile(keras.optimizers.SGD(0.1))
    before = layer.get_weights()[0].copy()
    small.fit(model, kw.EMATeacher())
    assert np.abs(layer.get_weights()[0] - before).max() > 0


def test_the_two_networks_have_names_of_their_own():
    model = kw.WakeModel(ended(), ATTACK)
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert model.teacher.name == f"{model.classifier.name}_teacher"
    for name in (model.classifier.name, model.teacher.name):
        assert f" {name} " in text
    assert "dense" not in text


torch_only = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="modules of PyTorch"
)


def torch_network():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 3)
    )
    module[1].running_mean[:] = 0.5
    wrapper = layers.TorchModuleWrapper(module, output_shape=(None, 3))
    return keras.Sequential([keras.Input(SHAPE), wrapper]), module[1]


@torch_only
def test_buffers_of_a_pytorch_module_are_copied_and_averaged():
    network, norm = torch_network()
    model = small.wake(network)
    assert_equal(model.teacher, network)
    start = norm.running_mean.clone().numpy()
    small.fit(model, kw.EMATeacher(0.75))
    moved = norm.running_mean.numpy()
    assert np.abs(moved - start).max() > 1e-3
    averaged = model.teacher.layers[0].module[1].running_mean.numpy()
    # One step: θ̄ ← α θ̄ + (1 − α) θ, in float32.
    np.testing.assert_allclose(averaged, 0.75 * start + 0.25 * moved, rtol=1e-6)


@torch_only
def test_statistics_of_a_pytorch_module_are_not_reestimated_but_refused():
    network, norm = torch_network()
    before = norm.running_mean.clone().numpy()
    with pytest.raises(ValueError, match=r"PyTorch module.*own statistics"):
        kw.models.reestimate_batch_norm(network, DATA)
    np.testing.assert_array_equal(norm.running_mean.numpy(), before)


@torch_only
def test_a_backup_without_the_statistics_of_a_module_is_refused(tmp_path):
    network, _ = torch_network()
    with pytest.raises(ValueError, match="statistics of a PyTorch module"):
        small.fit(small.wake(network), kw.BackupAndRestore(tmp_path))
