"""One evaluation from data to report, whatever its list of attacks."""

import dataclasses
import datetime
import os
import sys
import time
from collections.abc import Sequence

import keras
import numpy as np

from keras_wake import backend
from keras_wake._version import __version__
from keras_wake.attacks import Attack
from keras_wake.data.classifier import check_classifier
from keras_wake.evaluation import processes
from keras_wake.evaluation import reliability
from keras_wake.evaluation.compiled_classifier import collect
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.compiled_classifier import Samples
from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.report import AttackResult
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.evaluation.shard import check_shard
from keras_wake.evaluation.shard import digest_of_order
from keras_wake.evaluation.shard import Shard
from keras_wake.evaluation.shard import StepsCheck
from keras_wake.evaluation.state import fingerprint
from keras_wake.evaluation.state import of_share
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


def evaluate(
    classifier: CompiledClassifier,
    data: Dataset,
    attacks: dict[str, Attack],
    *,
    version: str = "custom",
    seed: int = 0,
    state: str | os.PathLike | None = None,
    return_images: bool = False,
    class_names: Sequence[str] | None = None,
    checks: bool = True,
    verbose: int = 0,
    shard: tuple[int, int] | None = None,
    shared: bool = False,
) -> RobustnessReport:
    """Runs a list of attacks, checks, and reports.

    The arguments are those of `autoattack`; with `shared`, several processes
    share the samples, unless `shard` is given. Warnings point at the user's
    call of the function that has called this one.
    """
    seed = validate.seed(seed=seed)
    # What the result depends on besides classifier and data.
    settings = {
        "attacks": [f"{name}: {attack!r}" for name, attack in attacks.items()],
        "version": version,
        "seed": seed,
        "return_images": validate.boolean(return_images=return_images),
        "checks": validate.boolean(checks=checks),
        "backend": keras.backend.backend(),
        "keras_wake": __version__,
    }
    share = (0, 1) if shard is None else check_shard(shard)
    validate.one_of((0, 1, 2), verbose=verbose)
    if state is not None:
        validate.path(state=state)
    model = classifier.model
    num_classes = check_classifier(model, allow_probabilities=True)
    names = validate.names_of_classes(class_names, num_classes)
    bounds = next(iter(attacks.values())).bounds
    everyone = collect(model, data, num_classes, bounds, classifier.batch_size)
    for attack in attacks.values():
        attack.check_image_shape(everyone.images.shape[1:])
    probed = classifier.probe(everyone.images[: reliability.PROBED])
    first = None if classifier.has_random_outputs else probed[0][:_COMPARED]
    wanted = fingerprint(model, everyone.digest, settings, first)
    together = shared and shard is None and backend.processes(model)[1] > 1
    if together:
        share = processes.share_of_process(
            model, wanted, names, len(everyone.images), verbose
        )
        state = processes.state_of_share(state, *share)
        verbose = verbose if share[0] == 0 else 0
    report = None
    if share[0] < share[1]:
        samples = everyone.shard(*share)
        run = _run_attacks(
            classifier,
            samples,
            attacks,
            everyone,
            probed,
            StateFile(state, of_share(wanted, *share)),
            settings,
            verbose,
            together,
        )
        report = _report(run, names, version)
        if shard is not None or together:
            shown = _shard(run.tally(), samples, everyone, wanted, share)
            report = dataclasses.replace(report, shard=shown)
    # Alone, a process always has a share.
    if report is None or together:
        return processes.joined(model, report)
    return report


def _run_attacks(
    classifier: CompiledClassifier,
    samples: Samples,
    attacks: dict[str, Attack],
    everyone: Samples,
    probed: tuple[Array, Array],
    state_file: StateFile,
    settings: Json,
    verbose: int,
    together: bool,
) -> "Run":
    """Runs the attacks on a share of the samples, and checks.

    Args:
        everyone: The samples of all shares.
        probed: The logits of two passes over the first of these.
        together: Whether processes share the samples. Then warnings about the
            attacks wait until the shares are joined.
    """
    name, checks = classifier.model.name, settings["checks"]
    with state_file as file:
        progress = file.read()
        if progress is None:
            right = classifier.are_correct(samples.images, samples.classes)
            progress = Progress(np.where(right, STANDS, WRONG))
            if checks:
                progress.findings += reliability.findings_before_attacks(
                    classifier, everyone, attacks, *probed
                )
            file.write(progress)
        images = None
        if settings["return_images"]:
            # The clean image where there is no adversarial one.
            images = samples.images.copy()
            images[progress.kept_samples] = file.read_images(
                progress, images.shape[1:]
            )
        seed = settings["seed"]
        run = Run(classifier, samples, attacks, seed, file, progress, images)
        known = progress.findings
        if together:
            known = reliability.of_clean_images(known)
        # The state is written already: the user may have made warnings errors.
        reliability.warn(known, name, stacklevel=4)
        if not progress.finished:
            warned = len(progress.findings)
            run.attack_all(verbose)
            # With random outputs, images also fall by chance.
            if checks and not classifier.has_random_outputs:
                steps = reliability.try_twice_the_steps(
                    classifier, samples, attacks, progress, seed
                )
                progress.steps = dataclasses.asdict(steps)
            progress.findings += reliability.findings_after_attacks(run.tally())
            progress.finished = True
            file.write(progress)
            if not together:
                found = progress.findings[warned:]
                reliability.warn(found, name, stacklevel=4)
    return run


@dataclasses.dataclass
class Run:
    """Attacks samples from where the progress is, until all is done.

    Attributes:
        file: To be written after every batch.
        images: Float32 array (n, ...) that takes the adversarial images; None
            if these are not kept.
    """

    classifier: CompiledClassifier
    samples: Samples
    attacks: dict[str, Attack]
    seed: int
    file: StateFile
    progress: Progress
    images: Array | None

    def attack_all(self, verbose: int) -> None:
        """Runs the attacks that are left."""
        progress, attacks = self.progress, list(self.attacks.items())
        while progress.attack_number < len(attacks):
            self._attack(*attacks[progress.attack_number], verbose)
            progress.attack_number += 1
            progress.stage = 0
            self.file.write(progress)

    def tally(self) -> reliability.Tally:
        """What the attacks have done."""
        fell = np.bincount(
            self.progress.fallen_to + 1, minlength=len(self.attacks) + 2
        )
        num_classes, steps = self.samples.labels.shape[1], self.progress.steps
        return reliability.Tally(
            names=list(self.attacks),
            # The first two are those that stand, or were misclassified.
            fell=fell[2:].tolist(),
            outside=self.progress.outside,
            black_box=[
                reliability.sees_no_gradients(attack, num_classes)
                for attack in self.attacks.values()
            ],
            samples=len(self.samples.images),
            steps=None if steps is None else StepsCheck(**steps),
        )

    def _attack(self, name: str, attack: Attack, verbose: int) -> None:
        """All stages of the current attack."""
        progress, batch_size = self.progress, self.classifier.batch_size
        progress.begin_attack()
        # With a radius of 0 there is nothing but the clean images.
        stages = 0
        if attack.epsilon > 0:
            stages = int(attack.stages_for(self.samples.labels.shape[1]))
        total = progress.attacked[-1] * stages
        what = f"robust accuracy after {name}"
        bar = keras.utils.Progbar(
            total,
            verbose=verbose if total else 0,
            stateful_metrics=[what],
            unit_name="image",
        )

        def show(done: int, finalize: bool = False) -> None:
            left = len(progress.standing) / len(self.samples.images)
            bar.update(done, [(what, left)], finalize=finalize)

        while progress.stage < stages:
            if progress.queue is None:
                progress.queue, progress.position = progress.standing, 0
            while progress.position < len(progress.queue):
                first, begin = progress.position, time.perf_counter()
                rows = progress.queue[first : first + batch_size]
                found = self._batch(attack, rows)
                progress.seconds[-1] += time.perf_counter() - begin
                self.file.write(progress, found)
                left = len(progress.queue) - progress.position
                # Fewer images stand in a later stage, so that it ends early.
                show(progress.attacked[-1] * (progress.stage + 1) - left)
            progress.stage += 1
            progress.queue = None
        show(total, finalize=True)

    def _batch(self, attack: Attack, rows: Array) -> Array | None:
        """Attacks the next batch; returns the images to keep, if any."""
        progress = self.progress
        found, wrong, allowed = self.classifier.attack_and_judge(
            attack,
            progress.attack_number,
            progress.stage,
            self.samples,
            rows,
            self.seed,
        )
        broken = wrong & allowed
        fell = rows[broken]
        progress.fallen_to[fell] = progress.attack_number + 1
        progress.images_run[-1] += len(rows)
        progress.outside[-1] += int((~allowed).sum())
        progress.position += len(rows)
        if self.images is None:
            return None
        progress.kept_samples.extend(fell.tolist())
        self.images[fell] = found[broken]
        return found[broken]


def _report(run: Run, class_names: list[str], version: str) -> RobustnessReport:
    samples, progress, votes = run.samples, run.progress, run.classifier.votes
    fallen_to, num_classes = progress.fallen_to, len(class_names)

    def counts(chosen: Array) -> Array:
        return np.bincount(samples.classes[chosen], minlength=num_classes)

    results, count = [], len(fallen_to)
    right = int((fallen_to != WRONG).sum())
    for number, (name, attack) in enumerate(run.attacks.items()):
        fell = int((fallen_to == number + 1).sum())
        right -= fell
        costs, tried = attack.passes(num_classes), progress.images_run[number]
        forward = backward = None
        if costs is not None:
            # Besides those of the attack, the passes that judge its images.
            forward = (int(costs[0]) + votes) * tried
            backward = int(costs[1]) * tried
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
                backward_passes=backward,
                seconds=progress.seconds[number],
                note=attack.note(num_classes),
            )
        )
    name_of_backend = keras.backend.backend()
    return RobustnessReport(
        version=version,
        norm=attack.norm,
        epsilon=attack.epsilon,
        bounds=attack.bounds,
        seed=run.seed,
        batch_size=run.classifier.batch_size,
        class_names=class_names,
        counts=counts(fallen_to >= STANDS),
        clean_counts=counts(fallen_to != WRONG),
        robust_counts=counts(fallen_to == STANDS),
        passes_per_prediction=votes,
        attacks=tuple(results),
        findings=tuple((code, text) for code, text in progress.findings),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={
            "keras_wake": __version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            name_of_backend: sys.modules[name_of_backend].__version__,
        },
        fallen_to=samples.in_order_of_data(fallen_to),
        images=None
        if run.images is None
        else samples.in_order_of_data(run.images),
    )


def _shard(
    tally: reliability.Tally,
    samples: Samples,
    everyone: Samples,
    wanted: Json,
    share: tuple[int, int],
) -> Shard:
    """What joining needs to know of a share."""
    outputs = wanted["outputs"]
    if outputs is not None:
        outputs = outputs.ravel()
    return Shard(
        *share,
        samples=len(everyone.images),
        fingerprint={**wanted, "outputs": outputs},
        outside=tally.outside,
        black_box=tally.black_box,
        steps=tally.steps,
        order=digest_of_order(everyone.places),
        places=np.sort(samples.places),
    )
