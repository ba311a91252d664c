# %% [markdown]
# # Why it works: the synthetic model
#
# The paper explains robust overfitting by a model that is small enough for a
# formula. There are three classes. Class i has an *exclusive* feature, which no
# other class has, and shares a *common* feature with each of the two others.
# Features that are present have mean μ and deviation σ; the others are 0. A
# classifier has two weights: w1 for the exclusive features, w2 for the common ones.
#
# Common features carry information, which a small w2 discards. But an adversary of
# radius ε can change more of them: for each class it can raise the two wrong logits
# and lower the right one. Which weights are best?

# %%
import keras_wake as kw

model = kw.theory.SyntheticModel(mu=1.0, sigma=1.0, weight_decay=1.0)
for epsilon in (0.0, 0.1, 0.2, 0.3):
    w1, w2 = model.optimal_weights(epsilon)
    print(f"epsilon {epsilon:.1f}: w1 = {w1:.3f}, w2 = {w2:.3f}")
print(f"epsilon_0 = {model.critical_epsilon():.4f}")

# %% [markdown]
# From
#
# $$
# \varepsilon_0 = \frac{1}{2} \left( \mu - \frac{\sigma}{\sqrt{\pi}} \right)
# $$
#
# on, the best weight of the common features is 0: adversarial training drops what
# classes share. The counterpart in a network is CAS, which falls with robust
# overfitting.
#
# ## Soft labels keep the common features
#
# Label smoothing stands here for distillation: both keep a classifier from pushing
# the other classes as far down as it can. With smoothing β the radius from which on
# w2 is 0 moves up to
#
# $$
# \varepsilon_1 = \frac{1}{2}
#     \left( \frac{\mu}{1 - \beta} - \frac{\sigma}{\sqrt{\pi}} \right)
# $$

# %%
beta = 0.1
for epsilon in (0.0, 0.1, 0.2, 0.3):
    w1, w2 = model.optimal_weights(epsilon, label_smoothing=beta)
    print(f"epsilon {epsilon:.1f}: w1 = {w1:.3f}, w2 = {w2:.3f}")
print(f"epsilon_1 = {model.critical_epsilon(beta):.4f}")

# %% [markdown]
# ## Is the formula right?
#
# Two other ways give the same weights: minimising the loss on samples, and training
# the linear model with `WakeModel` like any network.

# %%
samples = 20_000  # quick: 500
x, y = model.sample(samples, seed=0)
for epsilon in (0.05, 0.15):
    closed = model.optimal_weights(epsilon)
    sampled = kw.theory.monte_carlo_weights(x, y, epsilon)
    trained = kw.theory.trained_weights(x, y, epsilon)
    print(
        f"epsilon {epsilon:.2f}, w2: closed form {closed[1]:.3f}, "
        f"Monte Carlo {sampled[1]:.3f}, trained {trained[1]:.3f}"
    )

# %% [markdown]
# ## And why does it matter?
#
# Theorem 2: with $t = w_2 / w_1$, the probability that one class beats another under
# attack is
#
# $$
# \Phi \left( \frac{1 + t}{\sqrt{1 + t^2} \, s} \right),
# \qquad s = \frac{\sigma}{\mu - 2 \varepsilon}
# $$
#
# It rises on $t \in [0, 1]$: a classifier that keeps the common features is more
# robust.

# %%
for t in (0.0, 0.25, 0.5, 1.0):
    print(f"t = {t:.2f}: {model.separation_probability((1.0, t), 0.1):.4f}")

# %% [markdown]
# ## Try it
#
# <div class="synthetic"></div>
#
# The curves are the closed forms of w2; the marks are ε0 and ε1. The library draws
# the same for β = 0.1:

# %%
kw.visualization.plot_synthetic(model, beta, path="images/synthetic.png")

# %% [markdown]
# ![The best weight of the common features over the radius, with and without label
# smoothing; it falls to 0 at ε0 and at ε1](images/synthetic.png)
