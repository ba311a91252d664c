# %% [markdown]
# # Quickstart
#
# This page uses the 8×8 digits of scikit-learn, which need no download. All of it runs
# on two CPU cores in a minute or two.
#
# ## Install
#
# From a clone of the repository, with Python 3.11 or newer:
#
# ```bash
# pip install -e '.[tensorflow,examples]'
# ```
#
# For another backend install `'.[jax,examples]'` or `'.[torch,examples]'`, and set
# `KERAS_BACKEND` to `jax` or `torch`. The rest of this page is the same.
#
# ## Data and network

# %%
import keras

import keras_wake as kw

keras.utils.set_random_seed(0)
data = kw.datasets.load("digits", batch_size=64)
classifier = kw.models.SmallCNN(
    num_classes=data.num_classes,
    input_shape=data.input_shape,
    widths=(16, 32),
    strides=(1, 2),
)

# %% [markdown]
# The classifier may be any built `keras.Model` that takes float images in [0, 1] and
# returns logits `(batch, classes)`, so without a softmax at its end, and with the
# normalisation inside. The validation images are taken from the training data, so that
# the best epoch can be chosen without looking at the test set. [Your own model and your
# own images](own_model.md) has more.
#
# ## Train

# %%
epochs = 30  # quick: 2
# Distillation begins after half of the epochs and is in full force at 55 %.
schedule = kw.schedules.DistillationRamp.for_epochs(epochs)
model = kw.WakeModel(
    classifier,
    attack=kw.attacks.PGD("linf", epsilon=0.1, step_size=0.025, steps=7),
    schedule=schedule,
)
model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
attribution = kw.CrossClassAttribution(class_names=data.class_names)
run = model.fit(
    data.train,
    validation_data=data.validation,
    epochs=epochs,
    callbacks=[kw.EMATeacher(decay=0.99, warmup=True), attribution],
    verbose=0,
)
for name in ("val_robust_accuracy", "val_teacher_robust_accuracy", "val_cas"):
    print(name, f"{run.history[name][0]:.3f} ... {run.history[name][-1]:.3f}")

# %% [markdown]
# `EMATeacher` switches on the averaged network, which a schedule needs. With so few
# steps, `warmup=True` keeps the first weights from dominating the average.
# `CrossClassAttribution` uses the adversarial examples that validation makes anyway, so
# it costs almost no time. Without `verbose=0`, Keras shows its progress bar.
#
# `fit` logs:
#
# | log | what it is |
# |---|---|
# | `loss`, `robust_accuracy` | on the attacked training batches |
# | `kd_weight` | weight of the distillation in this epoch |
# | `val_accuracy`, `val_robust_accuracy` | student: clean images, and under `eval_attack` |
# | `val_teacher_accuracy`, `val_teacher_robust_accuracy` | the same for the teacher, attacked on its own |
# | `val_cas`, `val_teacher_cas` | similarity of the classes' attributions, 0 to K(K − 1) |
#
# From the epoch in which distillation is in full force, the teacher is frozen, and so
# are the logs about it.
#
# They all work with Keras's callbacks, for example
# `keras.callbacks.ModelCheckpoint("best.keras", monitor="val_robust_accuracy",
# mode="max")`.
#
# ## Evaluate and keep

# %%
results = model.evaluate(data.test, return_dict=True, verbose=0)
print(f"clean  {results['teacher_accuracy']:.1%}")
print(f"robust {results['teacher_robust_accuracy']:.1%}")
model.robust_classifier.save("robust.keras")

# %% [markdown]
# `robust_classifier` is the averaged network, made of plain Keras layers:
# `keras.models.load_model("robust.keras")` needs no keras-wake.
#
# A robust accuracy is the accuracy under one attack, by default PGD with 20 steps. It
# is an upper bound, because a stronger attack may lower it; [AutoAttack](autoattack.md)
# is such an attack.
#
# ## Look

# %%
kw.visualization.plot_history(
    run.history,
    start_epoch=schedule.start_epoch,
    end_epoch=schedule.end_epoch,
    path="images/quickstart_history.png",
)
kw.visualization.plot_correlation_matrix(
    attribution.correlation,
    data.class_names,
    path="images/quickstart_matrix.png",
)

x, y = data.arrays("test", limit=8)
robust = model.robust_classifier
adversarial = model.eval_attack(robust, x, y, seed=0)
kw.visualization.plot_adversarial_examples(
    x,
    adversarial,
    y,
    robust.predict(x, verbose=0),
    robust.predict(adversarial, verbose=0),
    path="images/quickstart_examples.png",
)

# %% [markdown]
# ![Accuracies, loss and CAS over the epochs](images/quickstart_history.png)
#
# ![The matrix of what classes share: 1 on the diagonal, less
# elsewhere](images/quickstart_matrix.png)
#
# ![Digits, what the attack adds to them, and what the network says of
# both](images/quickstart_examples.png)
#
# ## Analyse any model
#
# The attribution matrix needs no `WakeModel`. `attack=None` means clean images:

# %%
matrix = kw.attribution.correlation_matrix(
    robust, data.validation, attack=model.eval_attack
)
print(f"CAS {kw.attribution.cas(matrix):.2f}")

# %% [markdown]
# ## On real images
#
# `examples/cifar10.py` trains on CIFAR-10 with the published settings, on one GPU or on
# all that TensorFlow sees. With `--limit` and `--model small` a CPU can train it. With
# `--data-dir` it reads a folder of images instead. `--help` explains the options.
# [Robust overfitting and CAS](robust_overfitting.md) shows the results of such runs.
