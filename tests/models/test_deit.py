"""DeiTTiny: against NumPy, its size, its refusals, and trained with WAKE."""

import sys

import keras
import numpy as np
import pytest
from scipy.special import erf
from small import data
from small import wake
from torch_twins import logits_of

import keras_wake as kw

ATTACK = kw.attacks.PGD(epsilon=8 / 255, steps=2)
X, Y = data(seed=2, shape=(8, 8, 3))


def needs_keras_hub():
    pytest.importorskip(
        "keras_hub", reason="the backbone is KerasHub's (extra `hub`)"
    )


def tiny(**arguments):
    """Two heads in each of two blocks, on 16 patches."""
    needs_keras_hub()
    keras.utils.set_random_seed(0)
    arguments = {"num_layers": 2, "num_heads": 2, **arguments}
    classifier = kw.models.DeiTTiny(3, (8, 8, 3), 2, **arguments)
    rng = np.random.default_rng(1)
    for weight in classifier.weights:
        # Tokens, biases and offsets start from 0 and would hide mistakes.
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign(keras.ops.convert_to_numpy(weight) + noise)
    return classifier


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def features_in_numpy(classifier, x):
    """The class token after the last layer norm, in float64."""
    embedding, blocks = {}, {1: {}, 2: {}}
    for weight in classifier.get_layer("backbone").weights:
        value = keras.ops.convert_to_numpy(weight).astype("float64")
        name, _, key = weight.path.partition("transformer_block_")[2].partition(
            "/"
        )
        if name:
            blocks[int(name)][key] = value
        else:
            embedding[weight.path.rpartition("/")[2]] = value
    x = (x - (0.4914, 0.4822, 0.4465)) / (0.2471, 0.2435, 0.2616)
    # Patches of 2x2 pixels, row by row.
    patches = x.reshape(-1, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(len(x), 16, 12)
    kernel = embedding["kernel"].reshape(12, -1)
    width = kernel.shape[1]
    tokens = [
        np.broadcast_to(embedding[name], (len(x), 1, width))
        for name in ("class_token", "distillation_token")
    ]
    tokens.append(patches @ kernel + embedding["bias"])
    z = np.concatenate(tokens, axis=1) + embedding["position_embedding"]
    for block in blocks.values():
        y = layer_norm(z, block, "ln_1")
        query, key, value = (
            np.einsum("btc,chd->bhtd", y, block[f"mha/{name}/kernel"])
            + block[f"mha/{name}/bias"][None, :, None]
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bhtd,bhsd->bhts", query, key) / np.sqrt(64)
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        mixed = np.einsum("bhts,bhsd->bthd", weight, value)
        z = z + block["mha/attention_output/bias"]
        z = z + np.einsum(
            "bthd,hdc->btc", mixed, block["mha/attention_output/kernel"]
        )
        y = layer_norm(z, block, "ln_2") @ block["mlp/dense/kernel"]
        y = y + block["mlp/dense/bias"]
        y = y * (1 + erf(y / np.sqrt(2))) / 2
        z = z + y @ block["output_layer/output/kernel"]
        z = z + block["output_layer/output/bias"]
    last = {f"ln/{name}": embedding[name] for name in ("gamma", "beta")}
    return layer_norm(z, last, "ln")[:, 0]


def test_equals_the_formulas_and_the_head_is_found():
    classifier = tiny()
    features = features_in_numpy(classifier, X.astype("float64"))
    head = kw.attribution.find_head(classifier)
    assert head is classifier.get_layer("head")
    kernel, bias = (w.astype("float64") for w in head.get_weights())
    expected = features @ kernel + bias
    assert np.ptp(expected, axis=0).min() > 0.05
    # Logits of order 1, two blocks in float32.
    np.testing.assert_allclose(logits_of(classifier, X), expected, atol=1e-4)

    matrix = kw.attribution.correlation_matrix(classifier, (X, Y))
    vectors = np.stack(
        [features[Y == k].mean(0) * kernel[:, k] for k in range(3)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix, vectors @ vectors.T, atol=1e-4)


def test_full_size_has_the_parameters_of_deit_tiny():
    needs_keras_hub()
    classifier = kw.models.DeiTTiny()
    width, mlp, tokens = 192, 768, 8 * 8 + 2
    # Query, key, value and output; then up and down again; two layer norms.
    block = 4 * width * (width + 1) + 2 * width * mlp + mlp + width + 4 * width
    embedding = (4 * 4 * 3 + 1) * width + 2 * width + tokens * width
    head = 10 * (width + 1)
    expected = embedding + 12 * block + 2 * width + head
    assert expected == 5_363_146
    assert classifier.count_params() == expected
    assert classifier.input_shape == (None, 32, 32, 3)
    assert classifier.output_shape == (None, 10)


def test_is_cloned_and_saved(tmp_path):
    classifier = tiny(mean=0.5, std=0.25)
    expected = logits_of(classifier, X)
    clone = keras.models.clone_model(classifier)
    assert np.abs(logits_of(clone, X) - expected).max() > 0.01
    clone.set_weights(classifier.get_weights())
    classifier.save(tmp_path / "deit.keras")
    loaded = keras.saving.load_model(tmp_path / "deit.keras")
    for copy in (clone, loaded):
        np.testing.assert_allclose(logits_of(copy, X), expected, atol=1e-6)


def test_trains_with_wake(tmp_path):
    schedule = kw.schedules.DistillationRamp(1, 2, final=0.5)
    model = wake(
        tiny(num_layers=1),
        ATTACK,
        keras.optimizers.SGD(0.05, momentum=0.9),
        schedule=schedule,
    )
    callbacks = [kw.EMATeacher(decay=0.5), kw.CrossClassAttribution()]
    history = model.fit(
        X,
        Y,
        batch_size=6,
        epochs=2,
        validation_data=(X, Y),
        verbose=0,
        callbacks=callbacks,
    ).history
    assert history["kd_weight"] == [0.0, 0.5]
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(history["val_teacher_cas"]).all()

    model.robust_classifier.save(tmp_path / "robust.keras")
    loaded = keras.saving.load_model(tmp_path / "robust.keras")
    np.testing.assert_allclose(
        logits_of(loaded, X), logits_of(model.teacher, X), atol=1e-6
    )


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"pip install keras-wake\[hub\]"):
        kw.models.DeiTTiny()
    # What KerasHub itself lacks.
    monkeypatch.delitem(sys.modules, "keras_hub", raising=False)
    (tmp_path / "keras_hub.py").write_text("import a_missing_package")
    monkeypatch.syspath_prepend(tmp_path)
    message = "could not be imported: No module named 'a_missing_package'"
    with pytest.raises(ImportError, match=message):
        kw.models.DeiTTiny()


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels last"):
            kw.models.DeiTTiny()
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2"),
        ({"patch_size": 5}, ValueError, "multiples of `patch_size`"),
        ({"patch_size": (4, 4)}, TypeError, "`patch_size` must be an integer"),
        ({"num_layers": 0}, ValueError, "`num_layers` must be at least 1"),
        ({"num_heads": 0}, ValueError, "`num_heads` must be at least 1"),
        ({"input_shape": (32, 32)}, ValueError, r"\(height, width, channels\)"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        kw.models.DeiTTiny(**arguments)


def test_a_task_with_a_preprocessor_is_refused():
    hub = pytest.importorskip("keras_hub")
    sizes = {"hidden_dim": 8, "intermediate_dim": 8, "image_shape": (8, 8, 3)}
    backbone = hub.models.DeiTBackbone(
        patch_size=4, num_layers=1, num_heads=2, **sizes
    )
    converter = hub.layers.DeiTImageConverter(image_size=(8, 8), scale=1 / 255)
    task = hub.models.DeiTImageClassifier(
        backbone=backbone,
        num_classes=3,
        preprocessor=hub.models.DeiTImageClassifierPreprocessor(converter),
    )
    with pytest.raises(ValueError, match=r"has a preprocessor.*= None`"):
        kw.WakeModel(task, kw.attacks.FGSM())
    task.preprocessor = None
    assert kw.WakeModel(task, kw.attacks.FGSM()).num_classes == 3
