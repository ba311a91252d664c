# %% [markdown]
# # Several GPUs and several hosts
#
# The training script stays the same; a strategy decides on which devices it runs. This
# page uses two logical devices of a CPU, so that you can follow it without a GPU. On a
# machine with GPUs, leave the next cell out.

# %%
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)

# %% [markdown]
# ## One host
#
# Make and compile the model within the scope of the strategy.

# %%
import keras

import keras_wake as kw

data = kw.datasets.load("digits", batch_size=64)


def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        classifier = keras.Sequential(
            [
                keras.Input(data.input_shape),
                keras.layers.Conv2D(16, 3),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.ReLU(),
                keras.layers.Conv2D(32, 3, strides=2),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(data.num_classes),
            ]
        )
        # Without a random start, which comes from another stream on each device.
        attack = kw.attacks.PGD("linf", 0.1, steps=3, random_start=False)
        model = kw.WakeModel(classifier, attack, eval_attack=attack)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    x, y = data.arrays("train", limit=320)
    run = model.fit(
        x,
        y,
        batch_size=64,
        shuffle=False,
        epochs=2,
        callbacks=[kw.EMATeacher(decay=0.9)],
        verbose=0,
    )
    return run.history["loss"]


one = tf.distribute.OneDeviceStrategy("CPU:0")
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print("one device ", train(one))
print("two devices", train(two))

# %% [markdown]
# `batch_size` counts the images of all devices together: each has 32 of the 64 images.
# The loss is the mean over the whole batch, so the numbers are those of one device, up
# to the order of sums. This also holds if the last batch does not divide evenly and one
# device has fewer images.
#
# Two things can make a difference. Random starts come from another stream on each
# device. And without `synchronized=True`, each device uses the batch-norm statistics of
# its own share, as in the networks of `kw.models`; [Scaling](../scaling.md#batch-norm)
# explains what this means and how to change it. If the last batch has fewer images than
# there are devices, a device has none: then such batch norm has no statistics, and
# `fit` stops with a message. Choose another batch size, or drop the last batch.
#
# `tf.distribute.MirroredStrategy()` uses all GPUs that TensorFlow sees. The example
# scripts do this by themselves.
#
# ## Several hosts
#
# Each host runs the same script. `TF_CONFIG` tells it about the others, and the script
# must make the strategy before anything else of TensorFlow.
#
# ```bash
# # On host-a; on host-b the index is 1
# export TF_CONFIG='{"cluster": {"worker": ["host-a:12345", "host-b:12345"]},
#                    "task": {"type": "worker", "index": 0}}'
# python examples/cifar10.py --run-dir /shared/runs/wake-0
# ```
#
# In a program of your own:
#
# <!-- not run -->
# ```python
# strategy = tf.distribute.MultiWorkerMirroredStrategy()
# with strategy.scope():
#     ...
# model.fit(..., callbacks=[..., kw.BackupAndRestore("/shared/runs/backup")])
# if model.is_chief:
#     model.robust_classifier.save("/shared/runs/robust.keras")
# ```
#
# ## JAX
#
# One host with several GPUs:
#
# <!-- not run -->
# ```python
# keras.distribution.set_distribution(
#     keras.distribution.DataParallel(auto_shard_dataset=False)
# )
# ```
#
# For several hosts, call `keras.distribution.initialize` before it.
#
# ## PyTorch
#
# Call `torch.distributed.init_process_group()` before the model is made, and start the
# script by `torchrun --nproc-per-node 8 train.py`: one process for each GPU.
#
# [Scaling](../scaling.md) explains SLURM, jobs that die and continue, the learning rate
# for a larger batch, batch norm, and what to expect of 8, 64 and 512 devices.
