"""One PyTorch process, of several if `RANK` is set.

`torch_run.py FOLDER CASE [PROCESS STEP]`. With PROCESS, that one kills itself
after so many steps. Run by `test_two_torch_processes.py`.
"""

import datetime
import json
import os
import pathlib
import sys
import time
from unittest import mock

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from training_case import classifier
from training_case import darker_at_the_end
from training_case import data
from training_case import numpy_of
from training_case import train
from training_case import train_averages
from training_case import train_with_awp

import keras_wake as kw
from keras_wake.checkpoint import archive

PGD = kw.attacks.PGD(epsilon=0.03, steps=2)


def main(folder, die_at):
    """All that a job does: the last batch has 9 images, in unequal shares."""
    options = {"weights": True, "monitor": True, "evaluate": True}
    write = mock.Mock(wraps=archive.write)
    with mock.patch.object(archive, "write", write):
        results = train(None, 39, 10, folder=folder, **options)
    return {**results, "backups": write.call_count}


def dropout(folder, die_at):
    """Also what each process draws."""
    options = {"dropout": True, "batch_norm": True}
    return train(None, 39, 10, folder=folder, die_at=die_at, **options)


def more(folder, die_at):
    """Other objectives, optimizers, data and precision."""
    return {
        "pipeline": train(None, 69, 20, pipeline=True, monitor=True),
        "averages": train_averages(None),
        "drawn": reestimated_behind_dropout(),
        "trades": trades(),
        "awp": train_with_awp(None, True),
        "statistics": statistics(),
        # The last one, because it sets the policy of what follows.
        "half": train(None, 39, 10, policy="mixed_float16"),
    }


def compiled(network, *args, optimizer=None, **kwargs):
    model = kw.WakeModel(network, *args, **kwargs)
    model.compile(optimizer or keras.optimizers.SGD(0.1))
    return model


def trades():
    optimizer = keras.optimizers.AdamW(
        0.02, clipnorm=0.2, gradient_accumulation_steps=2
    )
    network = classifier(False, False)
    model = compiled(network, PGD, "trades", optimizer=optimizer)
    log = model.fit(
        *data(40, False),
        batch_size=10,
        epochs=2,
        shuffle=False,
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        validation_split=0.2,
        verbose=0,
    )
    return {"history": log.history, "weights": numpy_of(network.weights)}


def statistics():
    """Moving mean and variance of the images after one step."""
    norm = keras.layers.BatchNormalization(momentum=0.5)
    layers = [keras.Input((4, 4, 1)), norm, keras.layers.Flatten()]
    network = keras.Sequential([*layers, keras.layers.Dense(3)])
    model = compiled(network, None, "standard", eval_attack=PGD)
    x, y = data(12, False)
    x = darker_at_the_end(x)
    model.fit(x, y, batch_size=12, shuffle=False, verbose=0)
    return numpy_of([norm.moving_mean, norm.moving_variance])


def reestimated_behind_dropout():
    """Statistics of images of which each process drops others."""
    keras.utils.set_random_seed(1)
    norm = keras.layers.BatchNormalization()
    layers = [keras.Input((4, 4, 1)), keras.layers.Dropout(0.5), norm]
    layers += [keras.layers.Flatten(), keras.layers.Dense(3)]
    model = compiled(keras.Sequential(layers), PGD)
    x, y = data(12, False)
    average = kw.EMATeacher(batch_norm="reestimate", data=(x, y))
    model.fit(x, y, batch_size=12, callbacks=[average], verbose=0)
    return numpy_of(model.teacher.weights)


class Batches(keras.utils.PyDataset):
    """Three batches in the first process, two in the second."""

    def __len__(self):
        return 3 - int(os.environ["RANK"])

    def __getitem__(self, index):
        return data(5, False)


def refused(folder, die_at):
    """Messages, and what random layers draw, by process."""
    rank = int(os.environ["RANK"])
    # Weights of their own, which the chief's replace.
    network = classifier(False, False, dropout=True)
    network.set_weights([w + rank for w in network.get_weights()])
    model = compiled(network, PGD)
    x, y = data(20, False)
    model.evaluate(x, y, verbose=0)
    drawn = [
        np.asarray(layer(np.ones((1, 64), "float32"), training=True)).tolist()
        for layer in network.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    other = classifier(False, False, classes=3 + rank)
    nan = x.copy()
    nan[-1] = np.nan
    teacher = kw.EMATeacher(batch_norm="reestimate", data=[(x, y)])
    attempts = {
        "arrays": lambda: model.fit(x, (y + rank) % 3),
        "lengths": lambda: model.fit(Batches()),
        "batch_size": lambda: model.fit(x, y, batch_size=1),
        "model": lambda: compiled(other, PGD).evaluate(x, y),
        "reestimate": lambda: model.fit(x, y, callbacks=[teacher]),
        "nan": lambda: model.fit(nan, y, shuffle=False, batch_size=10),
    }
    messages = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except ValueError as error:
            messages[name] = str(error)
    weights = numpy_of(network.weights)
    return {"messages": messages, "drawn": drawn, "weights": weights}


class Sleep(keras.callbacks.Callback):
    """Keeps the second process from its second step."""

    def on_train_batch_end(self, batch, logs=None):
        if os.environ["RANK"] == "1":
            time.sleep(300)


def silent(folder, die_at):
    """A process that hangs, in a group with a time limit of its own."""
    torch.distributed.destroy_process_group()
    limit = datetime.timedelta(seconds=10)
    torch.distributed.init_process_group(timeout=limit)
    model = compiled(classifier(False, False), PGD)
    model.fit(*data(20, False), batch_size=10, callbacks=[Sleep()])


def alone(folder, die_at):
    """`torchrun` without a process group."""
    compiled(classifier(False, False), PGD).fit(*data(20, False))


folder, case, *dying = sys.argv[1:]
if "RANK" in os.environ and case != "alone":
    torch.distributed.init_process_group()
rank = int(os.environ.get("RANK", 0))
step = int(dying[1]) if dying and int(dying[0]) == rank else None
path = pathlib.Path(folder) / f"results_{rank}.json"
path.parent.mkdir(exist_ok=True, parents=True)
path.write_text(json.dumps(globals()[case](folder, step)))
