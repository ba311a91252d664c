"""Gradient checkpointing: the same numbers, from less memory."""

import keras
import numpy as np
import pytest
from small import assert_same

import keras_wake as kw
from keras_wake.checkpoint.architecture import graph_records
from keras_wake.checkpoint.architecture import layer_records
from keras_wake.models.gradient_checkpointing import CheckpointedModel

BACKEND = keras.backend.backend()
SHAPE = (8, 8, 3)


def wide(checkpointing=True, **arguments):
    """Three blocks, with two shortcuts of another shape."""
    keras.utils.set_random_seed(0)
    return kw.models.WideResNet(
        3,
        SHAPE,
        depth=10,
        widen_factor=1,
        gradient_checkpointing=checkpointing,
        **arguments,
    )


def data(count=8):
    x = np.random.default_rng(0).random((count, *SHAPE), np.float32)
    return x, np.arange(count, dtype="int32") % 3


def arrays(network):
    return [keras.ops.convert_to_numpy(v) for v in network.variables]


def trained(checkpointing, objective):
    """A step of SGD at rate 1, which moves the weights by the gradient."""
    model = kw.WakeModel(
        wide(checkpointing),
        kw.attacks.PGD(epsilon=0.03, steps=1),
        objective,
        schedule=kw.schedules.DistillationRamp(0, 1),
    )
    model.compile(keras.optimizers.SGD(1.0))
    history = model.fit(*data(), verbose=0, callbacks=[kw.EMATeacher(0.5)])
    return model, history.history["loss"]


# AWP takes the gradient of the weights in a function of its own.
@pytest.mark.parametrize(
    "objective", ["at", pytest.param("awp", marks=pytest.mark.slow)]
)
def test_a_step_has_the_same_numbers(objective):
    plain, loss = trained(False, objective)
    model, loss_too = trained(True, objective)
    assert type(model.classifier) is type(model.teacher) is CheckpointedModel
    # XLA merges other operations, which rounds otherwise, and the gradients
    # sum that up. They are of the order of 1.
    tolerance = 1e-4 if BACKEND == "jax" else 1e-6
    np.testing.assert_allclose(loss_too, loss, atol=tolerance)
    moved = 0.0
    start = arrays(wide())
    for name in ("classifier", "teacher"):
        pairs = zip(
            arrays(getattr(model, name)),
            arrays(getattr(plain, name)),
            start,
            strict=True,
        )
        for value, expected, before in pairs:
            np.testing.assert_allclose(value, expected, atol=tolerance)
            moved = max(moved, abs(value - before).max())
    assert moved > 0.1


def test_an_attack_and_the_logits_are_the_same():
    plain, network = wide(False), wide()
    attack = kw.attacks.PGD(epsilon=0.03, steps=2)
    found = [attack(each, *data(), seed=0) for each in (plain, network)]
    found = [keras.ops.convert_to_numpy(each) for each in found]
    # A gradient that rounds to the other side of 0 moves a pixel the other way.
    assert np.mean(abs(found[0] - found[1]) > 1e-6) < 1e-3
    for training in (False, True):
        logits = [
            keras.ops.convert_to_numpy(each(data()[0], training=training))
            for each in (plain, network)
        ]
        np.testing.assert_allclose(*logits, atol=1e-5)


def test_batch_norm_is_updated_in_training_only():
    network = wide()
    start = arrays(network)
    network(data()[0], training=False)
    assert_same(arrays(network), start)
    network(data()[0], training=True)
    plain = wide(False)
    plain(data()[0], training=True)
    pairs = zip(arrays(network), arrays(plain), strict=True)
    for value, expected in pairs:
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_half_precision_keeps_its_statistics_in_float32():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        plain, network = wide(False), wide()
    finally:
        keras.config.set_dtype_policy(policy)
    logits = [
        keras.ops.convert_to_numpy(
            keras.ops.cast(each(data()[0], training=True), "float32")
        )
        for each in (plain, network)
    ]
    np.testing.assert_allclose(*logits, atol=1e-2)  # Of 8 bits.
    assert {v.dtype for v in network.variables} == {"float32"}
    for value, expected in zip(arrays(network), arrays(plain), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-2)


def test_what_is_frozen_stays_as_it_is_in_half_precision():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        network = wide()
    finally:
        keras.config.set_dtype_policy(policy)
    frozen = network.layers[:6]
    for layer in frozen:
        layer.trainable = False
    variables = [v for layer in frozen for v in layer.variables]
    # bfloat16 cannot tell it from 1.
    for variable in variables:
        variable.assign(np.full(variable.shape, 1.001, "float32"))
    start = [keras.ops.convert_to_numpy(v) for v in variables]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.1), loss)
    network.fit(*data(), verbose=0)
    assert_same([keras.ops.convert_to_numpy(v) for v in variables], start)


def loss_of(network, x, y):
    logits = network(x, training=True)
    losses = keras.ops.sparse_categorical_crossentropy(y, logits, True)
    return keras.ops.sum(losses)


def kept_by_torch(function, *arguments):
    """Bytes that a call of a function keeps for the gradient."""
    import torch

    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda found: found):
        function(*arguments)
    return sum(kept.values())


def planned_by_jax(network):
    """Bytes that XLA allocates for a gradient."""
    import jax

    def loss(values, *batch):
        pairs = zip(network.variables, values, strict=True)
        with keras.StatelessScope(pairs):
            return loss_of(network, *batch)

    values = [v.value for v in network.variables]
    compiled = jax.jit(jax.grad(loss)).lower(values, *data(64)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_a_gradient_needs_less_memory():
    if BACKEND == "tensorflow":
        pytest.skip("benchmarks/memory.py reads the plan of XLA")
    batch = [keras.ops.convert_to_tensor(each) for each in data(64)]

    def needed(network):
        if BACKEND == "jax":
            return planned_by_jax(network)
        return kept_by_torch(loss_of, network, *batch)

    # A block keeps one array in place of at least six. But there are three, one
    # of which is computed at a time, and XLA counts gradients of weights.
    assert needed(wide()) < 0.8 * needed(wide(False))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch traces the network")
def test_a_trace_which_would_keep_everything_is_refused():
    x = keras.ops.convert_to_tensor(data(8)[0])
    logits = kw.backend.jit(lambda network: network(x), wide())
    with pytest.raises(ValueError, match="checkpointing cannot be traced"):
        logits()


def test_weights_are_exchanged_with_the_plain_network(tmp_path):
    plain, network = wide(False, name="wide"), wide(name="wide")
    for variable in network.variables:
        shift = np.random.default_rng(1).random(variable.shape)
        variable.assign(variable + shift.astype("float32"))
    paths = [[v.path for v in each.variables] for each in (plain, network)]
    assert paths[0] == paths[1]
    assert layer_records(plain) == layer_records(network)
    assert graph_records(plain) == graph_records(network)

    network.save_weights(tmp_path / "a.weights.h5")
    plain.load_weights(tmp_path / "a.weights.h5")
    assert_same(arrays(plain), arrays(network))
    plain.save_weights(tmp_path / "b.weights.h5")
    other = wide(name="wide")
    other.load_weights(tmp_path / "b.weights.h5")
    assert_same(arrays(other), arrays(network))


def test_it_is_saved_and_loaded(tmp_path):
    network = wide()
    network(data()[0], training=True)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    assert type(loaded) is CheckpointedModel
    assert_same(arrays(loaded), arrays(network))
    # Without keras-wake it loads as the plain network of the same layers.
    plain = keras.Model(loaded.inputs, loaded.outputs)
    plain.save(tmp_path / "plain.keras")
    plain = keras.models.load_model(tmp_path / "plain.keras")
    assert type(plain) is type(wide(False))
    logits = [
        keras.ops.convert_to_numpy(m(data()[0])) for m in (plain, network)
    ]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_every_residual_network_has_the_flag():
    network = kw.models.PreActResNet18(
        3, SHAPE, width=2, gradient_checkpointing=True
    )
    assert type(network) is CheckpointedModel
    assert keras.ops.shape(network(data()[0])) == (8, 3)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="gradient_checkpointing"):
        wide("yes")
    images = keras.Input(SHAPE)
    with pytest.raises(ValueError, match=r"needs residual blocks.*has none"):
        CheckpointedModel(images, keras.layers.Flatten()(images))
