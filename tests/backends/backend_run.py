"""Attacks, trains, saves and loads on the backend of this process.

Run by `test_agreement.py`, once for each backend: `backend_run.py FOLDER
OTHER...` writes `FOLDER/BACKEND.npz` with every number that the backends must
agree in and `FOLDER/BACKEND.keras`, and loads the files of the other backends.
Where it has written them before, it loads those of the others alone.
"""

import pathlib
import sys

import keras
import numpy as np

import keras_wake as kw

SHAPE, CLASSES = (8, 8, 2), 3
numpy = keras.ops.convert_to_numpy


def network():
    """Convolutions, batch norm and a head, with weights from NumPy."""
    layers, l2 = keras.layers, keras.regularizers.L2
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(6, 3, padding="same", activity_regularizer=l2(1e-3)),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.Conv2D(8, 3, strides=2, kernel_regularizer=l2(1e-2)),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )
    rng = np.random.default_rng(1)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, w.shape)
            if w.ndim == 1
            else rng.normal(0, 0.5, w.shape)
            for w in model.get_weights()
        ]
    )
    return model


def data(count, seed):
    """Images of three patterns under noise, and their class numbers."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((CLASSES, *SHAPE))
    labels = rng.integers(0, CLASSES, count).astype("int32")
    images = 0.6 * patterns[labels] + 0.4 * rng.random((count, *SHAPE))
    return images.astype("float32"), labels


def autoattack(classifier, x):
    """What each attack of the list brings down, and with which images.

    The labels are what the classifier says, so that all are right at first;
    the weak attacks come first, so that something is left for the others.
    """
    results = {}
    labels = np.argmax(numpy(classifier(x, training=False)), axis=1)
    for norm, epsilon in (("linf", 0.07), ("l2", 0.55)):
        threat = {"norm": norm, "epsilon": epsilon}
        report = kw.evaluation.autoattack(
            classifier,
            (x, labels),
            attacks=[
                kw.attacks.Square(queries=20, **threat),
                kw.attacks.FAB(steps=2, **threat),
                kw.attacks.APGD(steps=2, **threat),
                kw.attacks.APGD(steps=6, loss="dlr_targeted", **threat),
            ],
            return_images=True,
            checks=False,
            verbose=0,
        )
        results[f"fallen_{norm}"] = report.fallen_to
        results[f"images_{norm}"] = report.images
    return results


def fit(model, *callbacks, **arguments):
    return model.fit(
        *data(37, seed=2),
        batch_size=10,
        shuffle=False,
        callbacks=[kw.EMATeacher(0.8), *callbacks],
        verbose=0,
        **arguments,
    ).history


def one_more_epoch(model):
    return fit(model, initial_epoch=5, epochs=6)["loss"]


def trained_here(path):
    """Every number that the backends must agree in; saves the model."""
    results = {}
    x, y = data(37, seed=2)
    test = data(20, seed=3)
    classifier = network()
    results["logits"] = numpy(classifier(x, training=False))
    for norm, epsilon in (("linf", 0.1), ("l2", 0.6)):
        attack = kw.attacks.PGD(norm, epsilon, steps=3, random_start=False)
        results[f"delta_{norm}"] = numpy(attack(classifier, x, y)) - x
    results |= autoattack(classifier, x)

    def pgd(steps):
        return kw.attacks.PGD("l2", 0.6, steps=steps, random_start=False)

    ramp = kw.schedules.DistillationRamp(1, 4)
    # The random starts of training are the same on every backend.
    attack = kw.attacks.PGD("l2", 0.6, steps=2)
    model = kw.WakeModel(classifier, attack, eval_attack=pgd(3), schedule=ramp)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    attribution = kw.CrossClassAttribution()
    monitor = kw.CatastrophicOverfitMonitor(
        single_step=kw.attacks.FGSM("l2", 0.6), multi_step=pgd(3)
    )
    history = fit(model, attribution, monitor, epochs=5, validation_data=test)
    results.update({f"log_{key}": values for key, values in history.items()})
    for name in ("classifier", "teacher"):
        for number, weight in enumerate(getattr(model, name).get_weights()):
            results[f"{name}_{number}"] = weight
    results["matrix"] = attribution.correlation
    results["teacher_matrix"] = attribution.teacher_correlation
    results["cas"] = attribution.cas
    results["own_matrix"] = kw.attribution.correlation_matrix(
        model.classifier, test, attack=pgd(3)
    )
    model.save(path)
    results["unbroken"] = one_more_epoch(model)
    return results


def loaded_from(path):
    """What a model of another backend says and does here."""
    loaded = keras.models.load_model(path)
    evaluated = loaded.evaluate(*data(20, seed=3), return_dict=True, verbose=0)
    results = {f"evaluated_{key}": value for key, value in evaluated.items()}
    # The optimizer's momentum and the teacher go on from the file.
    results["continued"] = one_more_epoch(loaded)
    results["updates"] = int(numpy(loaded.teacher_updates))
    return results


def main(folder, *others):
    folder, here = pathlib.Path(folder), keras.backend.backend()
    results = {}
    if not (folder / f"{here}.keras").exists():
        results = trained_here(folder / f"{here}.keras")
    for other in others:
        found = loaded_from(folder / f"{other}.keras")
        results |= {f"{other}_{key}": value for key, value in found.items()}
    np.savez(folder / f"{here}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
