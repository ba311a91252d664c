# %% [markdown]
# # Robust overfitting and CAS: AT against WAKE on CIFAR-10
#
# Adversarial training (AT) is most robust in the middle of the run. This tutorial shows
# this on real images, how the attributions of the classes change with it, and what WAKE
# changes.
#
# ## The runs
#
# The runs train a small network on 3,000 images of CIFAR-10 (JPEG), which is CIFAR-10
# re-encoded as JPEG. Each took 30 to 80 minutes, two at a time on two CPU cores.
# `FOLDER` has the images as `train/CLASS/*.jpg` and `test/CLASS/*.jpg`; without
# `--data-dir`, TensorFlow Datasets downloads the original.
#
# ```bash
# small="--data-dir FOLDER --model small --limit 3000 --validation 1000 \
#     --test-limit 1000 --augment flip --epochs 60 --eval-every 4"
# python examples/cifar10.py $small --method at --run-dir runs/at
# python examples/cifar10.py $small --method wake --run-dir runs/wake \
#     --decay 0.99 --ema-warmup --peak 0.95 --start-epoch 16 --end-epoch 20
# ```
#
# A run writes its settings, its epochs and its results to `record.json`. The records
# of the runs of this page, three seeds of each method, are part of the repository.

# %%
import json
import pathlib

import numpy as np

import keras_wake as kw

repository = pathlib.Path(kw.__file__).parents[1]
folder = repository / "benchmarks" / "results" / "cifar10_small"


def records(method):
    found = [
        json.loads((folder / f"{method}-seed{seed}.json").read_text())
        for seed in range(3)
    ]
    print(method, [record["started"] for record in found])
    return found


runs = {"AT": records("at"), "AT + WAKE": records("wake")}

# %% [markdown]
# ## What happens over the epochs
#
# Robust accuracy under PGD of 20 steps, on 1,000 images that were held out of the
# training data, every fourth epoch:

# %%
prefix = {"AT": "val_", "AT + WAKE": "val_teacher_"}


def curve(record, name, key):
    rows = [row for row in record["epochs"] if "val_cas" in row]
    rows = [row for row in rows if row["val_cas"] is not None]
    return [row[f"{prefix[name]}{key}"] for row in rows]


for name, group in runs.items():
    robust = np.mean([curve(r, name, "robust_accuracy") for r in group], axis=0)
    cas = np.mean([curve(r, name, "cas") for r in group], axis=0)
    print(f"{name:10} robust  ", " ".join(f"{100 * v:5.1f}" for v in robust))
    print(f"{'':10} CAS     ", " ".join(f"{v:5.1f}" for v in cas))

# %% [markdown]
# ![Robust accuracy and CAS over the epochs: those of AT fall from the middle of the
# run on, those of WAKE stay](../images/robust_overfitting.png)
#
# The figure has a fourth seed of AT. AT peaks near epoch 20, when the learning rate is
# still high, and loses several points by the end, although it still learns its training
# images. The averaged teacher of WAKE is frozen near its peak, and its student stays at
# the same level.
#
# ## What happens to the classes
#
# C[i, j] is the cosine of the attribution vectors of classes i and j. CAS is the sum of
# its positive entries off the diagonal. With AT, CAS falls from the start, and
# continues to fall when robust accuracy does: the network replaces features that
# classes share by features of single classes. With WAKE it stops falling.

# %%
for name, group in runs.items():
    for when in ("best", "last"):
        values = []
        for record in group:
            robust = curve(record, name, "robust_accuracy")
            index = int(np.argmax(robust)) if when == "best" else -1
            values.append(
                (100 * robust[index], curve(record, name, "cas")[index])
            )
        accuracy, cas = np.mean(values, axis=0)
        print(f"{name:10} {when}: {accuracy:.1f} % robust, CAS {cas:.1f}")

# %% [markdown]
# The matrices over the epochs of one run of AT, with robust accuracy and CAS:
#
# ![A strip of matrices over the epochs: similarities between classes fade towards the
# end](../images/at-seed3-correlation_epochs.png)
#
# [Results](../results.md) has other methods, and what agrees with the paper and what
# does not.
#
# ## Watch it in your own run
#
# `CrossClassAttribution` logs CAS in `fit`, from the adversarial examples that
# validation makes anyway:

# %%
import keras

keras.utils.set_random_seed(0)
data = kw.datasets.load("digits", batch_size=64)
classifier = kw.models.SmallCNN(
    data.num_classes, data.input_shape, widths=(16, 32), strides=(1, 2)
)
model = kw.WakeModel(classifier, kw.attacks.PGD("linf", 0.1, steps=5))
model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
run = model.fit(
    data.train,
    validation_data=data.validation,
    epochs=3,
    callbacks=[kw.CrossClassAttribution(class_names=data.class_names)],
    verbose=0,
)
print([round(value, 2) for value in run.history["val_cas"]])
