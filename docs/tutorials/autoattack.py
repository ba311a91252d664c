# %% [markdown]
# # Evaluate with AutoAttack, and read the warnings
#
# A robust accuracy is only as reliable as the attack that measured it. This
# tutorial evaluates a network that is robust, and one that only looks robust.

# %% [markdown]
# ## A network to evaluate
#
# A small network, trained adversarially on the 8×8 digits of scikit-learn.

# %%
import keras

import keras_wake as kw

keras.utils.set_random_seed(0)
data = kw.datasets.load("digits", batch_size=64)
epsilon = 0.1
classifier = kw.models.SmallCNN(
    data.num_classes, data.input_shape, widths=(16, 32), strides=(1, 2)
)
model = kw.WakeModel(classifier, kw.attacks.PGD("linf", epsilon, steps=5))
model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
epochs = 20  # quick: 2
model.fit(data.train, epochs=epochs, verbose=0)

# %% [markdown]
# ## PGD first
#
# `robust_accuracy` runs one attack, with the same report and the same checks as
# the whole list.

# %%
images = 200  # quick: 20
test = data.arrays("test", limit=images)
pgd = kw.attacks.PGD("linf", epsilon, steps=20)
report = kw.evaluation.robust_accuracy(classifier, test, pgd, verbose=0)
print(report)

# %% [markdown]
# ## AutoAttack
#
# AutoAttack consists of four attacks that need no tuning. Each runs on the images
# that the earlier ones did not break. It is slower than PGD, and its number is the
# one to report.

# %%
report = kw.evaluation.autoattack(classifier, test, epsilon=epsilon, verbose=0)
print(report)
kw.visualization.plot_robustness_report(report, path="images/autoattack.png")

# %% [markdown]
# The interval shows how uncertain a number from 200 images is.
#
# ![The accuracy that is left after each attack of the
# list](images/autoattack.png)

# %% [markdown]
# ## A network that only looks robust
#
# Multiply the logits by a large number. The predictions stay the same. The
# cross-entropy of a right answer becomes 0 in float32, and with it the gradient:
# PGD has nothing to follow.

# %%
inputs = keras.Input(data.input_shape)
masked = keras.Model(inputs, keras.layers.Rescaling(1e4)(classifier(inputs)))
report = kw.evaluation.robust_accuracy(masked, test, pgd, verbose=0)
print(f"clean {report.clean_accuracy:.1%}")
print(f"PGD   {report.robust_accuracy:.1%}")
for code, message in report.findings:
    print(f"\n[{code}] {message}")

# %% [markdown]
# The weights are the same, and the number is better. The warning says not to
# believe it. AutoAttack does not need this gradient: the DLR loss does not change
# when the logits are scaled, FAB follows differences of logits, and Square needs no
# gradient.

# %%
report = kw.evaluation.autoattack(masked, test, epsilon=epsilon, verbose=0)
print(report)

# %% [markdown]
# Each warning has a section in [Reliability](../reliability.md) that says why it
# matters and what to do.
#
# ## Over the radius
#
# A curve over several radii must reach 0 where the ball is large enough. If it does
# not, the attack probably does not work.

# %%
sweep = kw.evaluation.epsilon_sweep(
    classifier,
    test,
    [0, 0.05, 0.1, 0.2, 0.4],
    lambda radius: kw.attacks.APGD("linf", radius),
    verbose=0,
)
print(sweep)
kw.visualization.plot_epsilon_sweep(sweep, path="images/sweep.png")

# %% [markdown]
# ![Accuracy over the radius of the ball](images/sweep.png)
