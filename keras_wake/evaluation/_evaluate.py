"""One evaluation from data to report, whatever its list of attacks."""

import dataclasses
import datetime
import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_wake._version import __version__
from keras_wake.data.classifier import check_classifier
from keras_wake.evaluation import checks as reliability
from keras_wake.evaluation._passes import differ
from keras_wake.evaluation._passes import Passes
from keras_wake.evaluation._progress import fingerprint
from keras_wake.evaluation._progress import Progress
from keras_wake.evaluation._progress import STANDS
from keras_wake.evaluation._progress import StateFile
from keras_wake.evaluation._progress import WRONG
from keras_wake.evaluation._run import clean_pass
from keras_wake.evaluation._run import NamedAttack
from keras_wake.evaluation._run import Run
from keras_wake.evaluation._samples import collect
from keras_wake.evaluation._samples import Samples
from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.report import AttackResult
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.utils import validate

# How many of the probed outputs tell networks of the same weights apart.
_COMPARED = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """What all evaluations have in common, checked.

    Attributes:
        version: Name of the list of attacks.
        batch_size: Most images of a batch.
        seed: Integer seed.
        state: File to go on from and to write; None for none.
        return_images: Whether adversarial images are kept.
        class_names: K names, or None.
        checks: Whether reliability is checked.
        verbose: 0 for silence, 1 for bars, 2 for a line for each attack.
    """

    version: str
    batch_size: int
    seed: int
    state: str | os.PathLike | None
    return_images: bool
    class_names: Sequence[str] | None
    checks: bool
    verbose: int

    def __post_init__(self) -> None:
        validate.integer(1, batch_size=self.batch_size)
        validate.seed(seed=self.seed)
        validate.boolean(return_images=self.return_images)
        validate.boolean(checks=self.checks)
        validate.one_of((0, 1, 2), verbose=self.verbose)
        if not isinstance(self.state, (str, os.PathLike, type(None))):
            raise TypeError(
                "`state` must be the path of a file or None. Received: "
                f"state={self.state!r}."
            )


def evaluate(
    classifier: Any, data: Any, attacks: list[NamedAttack], options: Options
) -> RobustnessReport:
    """Runs a list of attacks, checks, and reports.

    It warns of what the checks find as soon as they find it. The warnings
    point at the line that called `autoattack`, `robust_accuracy` or another
    direct caller of this function.

    Args:
        classifier: Anything; a built `keras.Model` is what is wanted.
        data: Pair of arrays (x, y), or anything that yields such batches.
        attacks: The attacks, in order, with the same bounds.
        options: The other settings.
    """
    num_classes = check_classifier(classifier, allow_probabilities=True)
    names = validate.names_of_classes(options.class_names, num_classes)
    bounds = attacks[-1].attack.bounds
    samples = collect(classifier, data, num_classes, bounds, options.batch_size)
    for each in attacks:
        each.check_image_shape(samples.images.shape[1:])
    passes = Passes(classifier, options.batch_size)
    first = samples.images[: reliability.PROBED]
    passes.forget_changed(first, samples.labels)
    outputs, again = passes.eager_logits(first), passes.eager_logits(first)
    passes.random = differ(outputs, again)
    file = StateFile(
        options.state,
        fingerprint(
            classifier,
            samples.digest,
            _settings(attacks, options),
            None if passes.random else outputs[:_COMPARED],
        ),
    )
    with file:
        progress, adversarial = _run_remaining(
            passes, samples, attacks, options, file, (outputs, again)
        )
    return _report(
        samples, attacks, progress, adversarial, names, options, passes.votes
    )


def _run_remaining(
    passes: Passes,
    samples: Samples,
    attacks: list[NamedAttack],
    options: Options,
    file: StateFile,
    outputs: tuple[np.ndarray, np.ndarray],
) -> tuple[Progress, np.ndarray | None]:
    """Runs what is left to run, and warns of what the checks find.

    Args:
        passes: The classifier.
        samples: What is attacked.
        attacks: The attacks, in order.
        options: The other settings.
        file: Locked state file to resume from.
        outputs: Logits of a few images, computed twice.
    """
    progress = file.read()
    if progress is None:
        progress = Progress(clean_pass(passes, samples))
        if options.checks:
            averaged = any(
                getattr(named.attack, "eot_samples", 1) > 1 for named in attacks
            )
            progress.findings += reliability.check_outputs(*outputs, averaged)
            progress.findings += reliability.check_gradients(
                passes, samples, progress.fallen_to
            )
        file.write(progress)
    told = len(progress.findings)
    # Written before: a warning may have been made an error.
    reliability.warn(progress.findings, passes.classifier.name, stacklevel=4)
    adversarial = _kept_images(samples, progress, file, options)
    if not progress.finished:
        run = Run(
            passes,
            samples,
            attacks,
            options.seed,
            progress,
            file,
            adversarial,
            options.verbose,
        )
        run.finish()
        progress.findings += reliability.check_threat_model(attacks, progress)
        # What another draw breaks says nothing of the attacks.
        if options.checks and not passes.random:
            progress.findings += reliability.check_black_box(
                attacks, progress, samples.labels.shape[1]
            )
            progress.findings += reliability.check_steps(
                passes, samples, attacks, progress, options.seed
            )
        progress.finished = True
        file.write(progress)
        reliability.warn(
            progress.findings[told:], passes.classifier.name, stacklevel=4
        )
    return progress, adversarial


def _settings(attacks: list[NamedAttack], options: Options) -> dict[str, Any]:
    """What the result depends on besides classifier and data."""
    return {
        "attacks": [f"{named.name}: {named.attack!r}" for named in attacks],
        "version": options.version,
        "seed": int(options.seed),
        "return_images": bool(options.return_images),
        "checks": bool(options.checks),
        "backend": keras.backend.backend(),
        "keras_wake": __version__,
    }


def _kept_images(
    samples: Samples, progress: Progress, file: StateFile, options: Options
) -> np.ndarray | None:
    """The adversarial images so far, the clean ones where there are none."""
    if not options.return_images:
        return None
    images = samples.images.copy()
    found = file.read_images(progress, images)
    if len(found):
        images[progress.order] = found
    return images


def _report(
    samples: Samples,
    attacks: list[NamedAttack],
    progress: Progress,
    adversarial: np.ndarray | None,
    names: list[str],
    options: Options,
    votes: int,
) -> RobustnessReport:
    fallen_to, classes = progress.fallen_to, samples.classes

    def counts(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(classes[chosen], minlength=len(names))

    last = attacks[-1].attack
    backend = keras.backend.backend()
    return RobustnessReport(
        version=options.version,
        norm=last.norm,
        epsilon=last.epsilon,
        bounds=last.bounds,
        seed=int(options.seed),
        batch_size=int(options.batch_size),
        class_names=names,
        counts=counts(np.full(len(classes), True)),
        clean_counts=counts(fallen_to != WRONG),
        robust_counts=counts(fallen_to == STANDS),
        passes_per_prediction=votes,
        attacks=_results(attacks, progress, len(names), votes),
        findings=tuple((code, text) for code, text in progress.findings),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={
            "keras_wake": __version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            backend: sys.modules[backend].__version__,
        },
        fallen_to=samples.in_order_of_data(fallen_to),
        images=None
        if adversarial is None
        else samples.in_order_of_data(adversarial),
    )


def _results(
    attacks: list[NamedAttack],
    progress: Progress,
    num_classes: int,
    votes: int,
) -> tuple[AttackResult, ...]:
    results = []
    count = len(progress.fallen_to)
    right = int((progress.fallen_to != WRONG).sum())
    for number, named in enumerate(attacks):
        fell = int((progress.fallen_to == number + 1).sum())
        right -= fell
        costs = reliability.passes_of(named.attack, num_classes)
        forward, backward = (None, None) if costs is None else costs
        images = progress.passes[number]
        results.append(
            AttackResult(
                name=named.name,
                settings=repr(named.attack),
                epsilon=named.attack.epsilon,
                attacked=progress.attacked[number],
                fell=fell,
                accuracy=right / count,
                interval=wilson_interval(right, count),
                # More passes look at what the attack has found.
                forward_passes=None
                if forward is None
                else (forward + votes) * images,
                backward_passes=None if backward is None else backward * images,
                seconds=progress.seconds[number],
                note=_note(named.attack, num_classes),
            )
        )
    return tuple(results)


def _note(attack: Any, num_classes: int) -> str | None:
    note = getattr(attack, "note", None)
    return note(num_classes) if callable(note) else None
