"""One evaluation from data to report, whatever its list of attacks."""

import dataclasses
import datetime
import os
import sys
import time
from collections.abc import Sequence

import keras
import numpy as np

from keras_wake._version import __version__
from keras_wake.attacks import Attack
from keras_wake.data.classifier import check_classifier
from keras_wake.evaluation import checks as reliability
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.report import AttackResult
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.evaluation.samples import collect
from keras_wake.evaluation.samples import Samples
from keras_wake.evaluation.samples import seed_of
from keras_wake.evaluation.state import fingerprint
from keras_wake.evaluation.state import Progress
from keras_wake.evaluation.state import STANDS
from keras_wake.evaluation.state import StateFile
from keras_wake.evaluation.state import WRONG
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json

# The logits of so many images are part of the fingerprint.
_COMPARED = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments that all evaluations have in common, as in `autoattack`."""

    version: str
    seed: int = 0
    state: str | os.PathLike | None = None
    return_images: bool = False
    class_names: Sequence[str] | None = None
    checks: bool = True
    verbose: int = 0

    def __post_init__(self) -> None:
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
    classifier: CompiledClassifier,
    data: Dataset,
    attacks: dict[str, Attack],
    options: Options,
) -> RobustnessReport:
    """Runs a list of attacks, checks, and reports.

    Findings on clean images are warned of before the attacks, all others after
    the last attack. The warnings point at the line that called `autoattack`, or
    another function that calls this one.

    Args:
        classifier: The classifier, which is checked here.
        data: Pair of arrays (x, y), or anything that yields such batches.
        attacks: The attacks by their names, in order, with the same bounds.
        options: The other settings.
    """
    model = classifier.classifier
    num_classes = check_classifier(model, allow_probabilities=True)
    names = validate.names_of_classes(options.class_names, num_classes)
    bounds = next(iter(attacks.values())).bounds
    samples = collect(model, data, num_classes, bounds, classifier.batch_size)
    for attack in attacks.values():
        attack.check_image_shape(samples.images.shape[1:])
    outputs = classifier.probe(samples.images[: reliability.PROBED])
    first = None if classifier.random else outputs[0][:_COMPARED]
    wanted = fingerprint(
        model, samples.digest, _settings(attacks, options), first
    )
    with StateFile(options.state, wanted) as file:
        run = Run(classifier, samples, attacks, options, file)
        run.begin(outputs)
        # The state is written already: the user may have made warnings errors.
        told = len(run.progress.findings)
        reliability.warn(run.progress.findings, model.name, stacklevel=3)
        if not run.progress.finished:
            run.finish()
            news = run.progress.findings[told:]
            reliability.warn(news, model.name, stacklevel=3)
    return _report(run, names)


class Run:
    """Attacks samples until none stands or all attacks are through.

    Args:
        classifier: What is attacked, on which images it is, and with what.
        samples: All images and labels.
        attacks: The attacks by their names, in order.
        options: The other settings.
        file: Locked file to go on from and to write after every batch.
    """

    def __init__(
        self,
        classifier: CompiledClassifier,
        samples: Samples,
        attacks: dict[str, Attack],
        options: Options,
        file: StateFile,
    ) -> None:
        self.classifier = classifier
        self.samples = samples
        self.attacks = attacks
        self.options = options
        self.file = file
        self.adversarial: Array | None = None

    def begin(self, outputs: tuple[Array, Array]) -> None:
        """Reads the progress so far, or begins with the clean images.

        Args:
            outputs: Logits of a few images, computed twice.
        """
        samples, progress = self.samples, self.file.read()
        if progress is None:
            right = self.classifier.right(samples.images, samples.classes)
            progress = Progress(np.where(right, STANDS, WRONG))
            if self.options.checks:
                progress.findings += reliability.check_outputs(
                    *outputs,
                    averaged=any(
                        attack.eot_samples > 1
                        for attack in self.attacks.values()
                    ),
                )
                progress.findings += reliability.check_gradients(
                    self.classifier, samples, progress.fallen_to
                )
            self.file.write(progress)
        self.progress = progress
        if self.options.return_images:
            # The clean image where there is no adversarial one.
            images = samples.images.copy()
            images[progress.order] = self.file.read_images(
                progress, images.shape[1:]
            )
            self.adversarial = images

    def finish(self) -> None:
        """Runs the attacks that are left, and the checks of their results."""
        progress, attacks = self.progress, list(self.attacks.items())
        while progress.attack < len(attacks):
            self._attack(*attacks[progress.attack])
            progress.attack += 1
            progress.stage = 0
            self.file.write(progress)
        progress.findings += reliability.check_threat_model(
            self.attacks, progress
        )
        # With random outputs, images also fall by chance.
        if self.options.checks and not self.classifier.random:
            progress.findings += reliability.check_black_box(
                self.attacks, progress, self.samples.labels.shape[1]
            )
            progress.findings += reliability.check_steps(
                self.classifier,
                self.samples,
                self.attacks,
                progress,
                self.options.seed,
            )
        progress.finished = True
        self.file.write(progress)

    def _attack(self, name: str, attack: Attack) -> None:
        """All stages of the current attack."""
        progress = self.progress
        progress.begin_attack()
        # With a radius of 0 there is nothing but the clean images.
        stages = 0
        if attack.epsilon > 0:
            stages = int(attack.stages_for(self.samples.labels.shape[1]))
        total = progress.attacked[-1] * stages
        what = f"robust accuracy after {name}"
        bar = keras.utils.Progbar(
            total,
            verbose=self.options.verbose if total else 0,
            stateful_metrics=[what],
            unit_name="image",
        )

        def show(done: int, finalize: bool = False) -> None:
            left = len(progress.standing) / len(self.samples)
            bar.update(done, [(what, left)], finalize=finalize)

        while progress.stage < stages:
            if progress.queue is None:
                progress.queue, progress.position = progress.standing, 0
            while progress.position < len(progress.in_queue):
                begin = time.perf_counter()
                found = self._batch(attack)
                progress.seconds[-1] += time.perf_counter() - begin
                self.file.write(progress, found)
                left = len(progress.in_queue) - progress.position
                # Fewer images stand in a later stage, so that it ends early.
                show(progress.attacked[-1] * (progress.stage + 1) - left)
            progress.stage += 1
            progress.queue = None
        show(total, finalize=True)

    def _batch(self, attack: Attack) -> Array | None:
        """Attacks the next batch of the queue.

        Returns:
            The adversarial images of the samples that have fallen, float32
            (m, ...); None if images are not kept.
        """
        progress, queue = self.progress, self.progress.in_queue
        end = progress.position + self.classifier.batch_size
        rows = queue[progress.position : end]
        found, wrong, allowed = self.classifier.attacked(
            attack,
            self.samples,
            rows,
            seed_of(self.options.seed, progress.attack),
            progress.stage,
        )
        fell = np.flatnonzero(wrong & allowed)
        progress.fallen_to[rows[fell]] = progress.attack + 1
        progress.passes[-1] += len(rows)
        progress.outside[-1] += int((~allowed).sum())
        progress.position = min(end, len(queue))
        if self.adversarial is None:
            return None
        progress.order.extend(rows[fell].tolist())
        self.adversarial[rows[fell]] = found[fell]
        return found[fell]


def _settings(attacks: dict[str, Attack], options: Options) -> Json:
    """What the result depends on besides classifier and data."""
    return {
        "attacks": [f"{name}: {attack!r}" for name, attack in attacks.items()],
        "version": options.version,
        "seed": int(options.seed),
        "return_images": bool(options.return_images),
        "checks": bool(options.checks),
        "backend": keras.backend.backend(),
        "keras_wake": __version__,
    }


def _report(run: Run, class_names: list[str]) -> RobustnessReport:
    samples, options = run.samples, run.options
    fallen_to, images = run.progress.fallen_to, run.adversarial

    def counts(chosen: Array) -> Array:
        return np.bincount(samples.classes[chosen], minlength=len(class_names))

    last = list(run.attacks.values())[-1]
    backend = keras.backend.backend()
    return RobustnessReport(
        version=options.version,
        norm=last.norm,
        epsilon=last.epsilon,
        bounds=last.bounds,
        seed=int(options.seed),
        batch_size=int(run.classifier.batch_size),
        class_names=class_names,
        counts=counts(np.full(len(samples), True)),
        clean_counts=counts(fallen_to != WRONG),
        robust_counts=counts(fallen_to == STANDS),
        passes_per_prediction=run.classifier.votes,
        attacks=_results(run, len(class_names)),
        findings=tuple((code, text) for code, text in run.progress.findings),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={
            "keras_wake": __version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            backend: sys.modules[backend].__version__,
        },
        fallen_to=samples.in_order_of_data(fallen_to),
        images=None if images is None else samples.in_order_of_data(images),
    )


def _results(run: Run, num_classes: int) -> tuple[AttackResult, ...]:
    results, progress = [], run.progress
    count = len(progress.fallen_to)
    right = int((progress.fallen_to != WRONG).sum())
    for number, (name, attack) in enumerate(run.attacks.items()):
        fell = int((progress.fallen_to == number + 1).sum())
        right -= fell
        forward, backward = attack.passes(num_classes) or (None, None)
        images = progress.passes[number]
        if forward is not None:
            # Besides those of the attack, the passes that judge its images.
            forward = (int(forward) + run.classifier.votes) * images
        results.append(
            AttackResult(
                name=name,
                settings=repr(attack),
                epsilon=attack.epsilon,
                attacked=progress.attacked[number],
                fell=fell,
                accuracy=right / count,
                interval=wilson_interval(right, count),
                forward_passes=forward,
                backward_passes=None
                if backward is None
                else int(backward) * images,
                seconds=progress.seconds[number],
                note=attack.note(num_classes),
            )
        )
    return tuple(results)
