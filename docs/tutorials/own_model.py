# %% [markdown]
# # Your own model, and your own images
#
# You can train any `keras.Model` that takes float images in [0, 1] and returns logits:
# without a softmax at its end, and with the normalisation inside.

# %% [markdown]
# ## A folder of images
#
# `train/` and `test/` have one folder for each class:
#
# ```text
# birds/
#   train/
#     heron/001.jpg ...
#     stork/...
#   test/
#     heron/...
# ```
#
# So that this page runs anywhere, we make such a folder from the digits of
# scikit-learn, enlarged to 32×32 pixels with three channels.

# %%
import pathlib
import tempfile

import keras
import numpy as np

import keras_wake as kw

keras.utils.set_random_seed(0)
folder = pathlib.Path(tempfile.mkdtemp()) / "images"
digits = kw.datasets.load("digits")
images = 800  # quick: 60
for split in ("train", "test"):
    x, y = digits.arrays(split, limit=images // (1 + 3 * (split == "test")))
    x = np.kron(x, np.ones((1, 4, 4, 3), "float32"))
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / split / f"class_{label}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, 255 * image, scale=False)

data = kw.datasets.load(
    "folder",
    data_dir=folder,
    batch_size=32,
    validation_split=0.2,
    augment="none",  # "crop_flip" for photographs
)
print(
    data.train_size, "images,", data.num_classes, "classes,", data.input_shape
)

# %% [markdown]
# If the images have different sizes, pass `image_size=(224, 224)`. Files that cannot be
# read do not end the program; `data.skipped` lists them. If your images come from a
# pipeline of your own, pass that to `fit`: a `tf.data.Dataset`, a `PyDataset`, a
# PyTorch `DataLoader` or arrays, of floats in [0, 1].
#
# ## A network of keras.applications
#
# Each of these networks expects its own range of pixels, so put a `Rescaling` layer
# before it. They end in a softmax by default; here `include_top=False` removes it.
# Their first layers are made for large images: for 32×32 pixels use a part of the
# network. Without published weights, also change the momentum of their batch norm: with
# 0.99 or 0.999, the statistics with which a network is attacked and evaluated need
# thousands of steps to settle.

# %%
backbone = keras.applications.MobileNet(
    input_shape=data.input_shape,
    alpha=0.5,
    weights=None,  # "imagenet" to start from published weights
    include_top=False,
)
part = keras.Model(backbone.input, backbone.get_layer("conv_pw_4_relu").output)
for layer in part.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.9
inputs = keras.Input(data.input_shape)
maps = part(keras.layers.Rescaling(2.0, offset=-1.0)(inputs))
features = keras.layers.GlobalAveragePooling2D()(maps)
classifier = keras.Model(
    inputs, keras.layers.Dense(data.num_classes, name="logits")(features)
)

# %% [markdown]
# ## Train and look

# %%
epochs = 20  # quick: 2
model = kw.WakeModel(
    classifier,
    attack=kw.attacks.PGD("linf", epsilon=8 / 255, steps=3),
    eval_attack=kw.attacks.PGD("linf", epsilon=8 / 255, steps=10),
    schedule=kw.schedules.DistillationRamp.for_epochs(epochs),
)
model.compile(keras.optimizers.Adam(2e-3))
attribution = kw.CrossClassAttribution(class_names=data.class_names)
run = model.fit(
    data.train,
    validation_data=data.validation,
    epochs=epochs,
    callbacks=[kw.EMATeacher(decay=0.98, warmup=True), attribution],
    verbose=0,
)
for epoch in (1, epochs // 2, epochs):
    for name in ("val_robust_accuracy", "val_teacher_robust_accuracy"):
        print(f"epoch {epoch:2} {name} {run.history[name][epoch - 1]:.3f}")

# %% [markdown]
# Attribution needs the layer that makes the logits, and found it here by itself. For a
# subclassed model, name the layer in `WakeModel(..., head="logits")` and in
# `class_report(..., head="logits")`. A subclassed model must also have been called once
# on images, so that it has weights, and it needs `get_config`, from which the teacher
# is made.
#
# A report on each class, from one pass over the data:

# %%
report = kw.attribution.class_report(
    model.robust_classifier,
    data.test,
    attack=model.eval_attack,
    class_names=data.class_names,
)
print(report)

# %% [markdown]
# ## KerasHub and KerasCV
#
# `pip install -e '.[hub]'` or `'.[cv]'`. A backbone of either replaces `backbone`
# above:
#
# <!-- not run -->
# ```python
# import keras_hub
#
# backbone = keras_hub.models.ResNetBackbone.from_preset("resnet_18_imagenet")
# inputs = keras.Input((224, 224, 3))
# # As the preset was trained: mean and variance of ImageNet.
# x = keras.layers.Normalization(
#     mean=[0.485, 0.456, 0.406], variance=[0.229**2, 0.224**2, 0.225**2]
# )(inputs)
# features = keras.layers.GlobalAveragePooling2D()(backbone(x))
# classifier = keras.Model(inputs, keras.layers.Dense(10)(features))
# ```
#
# KerasCV works on the TensorFlow backend. `python examples/cifar10.py --model
# keras_cv_resnet18 --augment keras_cv` uses one of its backbones and its RandAugment.
# DeiT-Ti, from KerasHub's layers, is `kw.models.DeiTTiny()`, and
# `examples/cifar10_deit.py` trains it with its published recipe.
