# %% [markdown]
# # Catastrophic overfitting, and the monitor
#
# With a single gradient step (FGSM), adversarial training is several times as fast as
# with PGD. But the network can learn to bend its loss so that one step finds nothing,
# while several steps still succeed. Robust accuracy then falls, on large images within
# an epoch and to almost nothing, and the accuracy under a single step does not show it.
# `CatastrophicOverfitMonitor` compares the two.

# %%
import keras

import keras_wake as kw

keras.utils.set_random_seed(0)
data = kw.datasets.load("digits", batch_size=64, validation_split=0.2)
epsilon = 0.3
layers = []
for filters, strides in ((16, 1), (32, 2), (32, 1)):
    layers += [
        keras.layers.Conv2D(filters, 3, strides, "same"),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
    ]
classifier = keras.Sequential(
    [
        keras.Input(data.input_shape),
        *layers,
        keras.layers.Flatten(),
        keras.layers.Dense(data.num_classes),
    ]
)

# %% [markdown]
# ## First with PGD
#
# A few epochs with several steps make a robust network, which can lose its robustness
# later. The radius is large for these images, on purpose.

# %%
evaluation = kw.attacks.PGD("linf", epsilon, steps=10)


def train(attack, epochs, learning_rate, action):
    model = kw.WakeModel(classifier, attack, eval_attack=evaluation)
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9))
    monitor = kw.CatastrophicOverfitMonitor(
        data=data.arrays("train", limit=256), action=action
    )
    matrices = kw.CrossClassAttribution()
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        callbacks=[monitor, matrices],
        verbose=0,
    )
    print("epoch  single step  multi step   CAS")
    for check, entry in zip(monitor.history, matrices.history, strict=True):
        print(
            f"{check['epoch']:5} {check['single_step_accuracy']:12.1%} "
            f"{check['multi_step_accuracy']:11.1%} {entry['cas']:5.1f}"
            + "  collapsed"
            * check["collapsed"]
        )
    return monitor, matrices


pgd = kw.attacks.PGD("linf", epsilon, steps=7)
epochs = 12  # quick: 2
before, matrices_before = train(pgd, epochs, 0.05, "warn")

# %% [markdown]
# ## Then with single steps

# %%
import warnings

weights = classifier.get_weights()
epochs = 25  # quick: 2
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    after, matrices_after = train(
        kw.attacks.FGSM("linf", epsilon), epochs, 0.1, "warn"
    )
for warning in caught:
    if "atastrophic" in str(warning.message):
        print(f"\n{warning.message}")
        break

# %% [markdown]
# The accuracy under one step shows little of it. The accuracy under ten steps shows
# what happened: the network collapses, recovers and collapses again. Where it is
# lowest, CAS is low as well.

# %%
best = max(
    range(len(before.history)),
    key=lambda i: before.history[i]["multi_step_accuracy"],
)
worst = min(
    range(len(after.history)),
    key=lambda i: after.history[i]["multi_step_accuracy"],
)
kw.visualization.plot_correlation_difference(
    matrices_before.history[best]["correlation"],
    matrices_after.history[worst]["correlation"],
    class_names=data.class_names,
    title="before − after the collapse",
    path="images/collapse_difference.png",
)

# %% [markdown]
# ![Difference of the matrices before and after the
# collapse](images/collapse_difference.png)
#
# ## Let the monitor act
#
# `action="rollback"` restores student, teacher and optimizer as they were at the last
# good check, and stops. Here it checks every tenth step instead of once in an epoch,
# which costs a little time and loses less training.

# %%
classifier.set_weights(weights)
test = data.arrays("test", limit=200)


def robust_accuracy():
    report = kw.evaluation.robust_accuracy(
        classifier, test, evaluation, checks=False, verbose=0
    )
    return f"{report.robust_accuracy:.1%} robust on test images"


print("Before single steps:", robust_accuracy())
model = kw.WakeModel(classifier, kw.attacks.FGSM("linf", epsilon))
model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
monitor = kw.CatastrophicOverfitMonitor(
    data=data.arrays("train", limit=256), every=10, action="rollback"
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    model.fit(data.train, epochs=epochs, callbacks=[monitor], verbose=0)
print(f"Stopped in epoch {monitor.history[-1]['epoch']}:", robust_accuracy())

# %% [markdown]
# To avoid a collapse instead of stopping it, use a random start and a step of 1.25 ε
# (`FGSM.fast_at`), with which it comes later, PGD with two or three steps, or a smaller
# ε. On real images: `python examples/cifar10.py --method fast-at`, or `python
# examples/catastrophic_overfitting.py`.
