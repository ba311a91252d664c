"""Signs that a robust accuracy is too high, in the manner of AutoAttack.

Each check yields findings, pairs of a code and a message. Codes are stable;
the page of the documentation has a section under each of them.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from keras_wake.attacks import Attack
from keras_wake.data.classifier import are_probabilities
from keras_wake.evaluation.compiled_classifier import CompiledClassifier
from keras_wake.evaluation.compiled_classifier import Samples
from keras_wake.evaluation.shard import StepsCheck
from keras_wake.evaluation.state import Progress
from keras_wake.evaluation.state import STANDS
from keras_wake.utils.types import Array

# How many images the checks look at that make passes of their own.
PROBED = 64
PROBED_GRADIENTS = 256
PROBED_STEPS = 100
# A larger share of images without a gradient is a finding.
MOST_ZERO_GRADIENTS = 0.05
# With twice the steps, a larger loss of accuracy is a finding, if it is of at
# least so many images: fewer can fall by chance.
LARGEST_DROP, FEWEST_IMAGES = 0.02, 3
# The same for a black-box attack, which should not break any image.
LARGEST_BLACK_BOX_DROP = 0.002
_SURE = 1e-12
# The range of the logits must be at least this many rounding errors of the
# loss.
_ROUNDINGS = 1000

Finding = tuple[str, str]
# The codes of what is seen after the attacks. All others are about the first
# of the clean images.
AFTER_ATTACKS = ("outside-threat-model", "black-box", "not-converged")


def of_clean_images(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are seen before the attacks."""
    return [found for found in findings if found[0] not in AFTER_ATTACKS]


@dataclasses.dataclass(frozen=True)
class Tally:
    """What the attacks have done, in numbers that shares can add up.

    Attributes:
        names: Those of the attacks.
        fell: How many images fell to each.
        outside: How many images each returned outside the threat model.
        black_box: Which of them see no gradients.
        samples: How many images there are.
        steps: What twice the steps have found. None if only the cheapest check
            is wanted.
    """

    names: list[str]
    fell: list[int]
    outside: list[int]
    black_box: list[bool]
    samples: int
    steps: StepsCheck | None


class ReliabilityWarning(UserWarning):
    """A robust accuracy is probably too high, or cannot be trusted.

    Args:
        code: What was found, such as `"softmax"`; `docs/reliability.md` has
            them all.
        message: What it says of this classifier.
        classifier: Name of the classifier. Defaults to `None`: unknown.

    Example:

    ```python
    with warnings.catch_warnings():
        # Make a doubtful number an error.
        warnings.simplefilter(
            "error", kw.evaluation.ReliabilityWarning
        )
        report = kw.evaluation.autoattack(classifier, test)
    ```
    """

    def __init__(
        self, code: str, message: str, classifier: str | None = None
    ) -> None:
        super().__init__(code, message, classifier)
        self.code = code
        self.message = message
        self.classifier = classifier

    @property
    def link(self) -> str:
        """Where the documentation says what to do."""
        return f"docs/reliability.md#{self.code}"

    def __str__(self) -> str:
        # In a loop, Python shows the same text only once.
        of = f" (Classifier {self.classifier!r}.)" if self.classifier else ""
        return f"[{self.code}] {self.message}{of} See {self.link}."


def warn(
    findings: Iterable[Finding], classifier: str | None, stacklevel: int
) -> None:
    """Warns of each finding about the classifier of that name."""
    for code, message in findings:
        warnings.warn(
            ReliabilityWarning(code, message, classifier),
            stacklevel=stacklevel + 1,
        )


def findings_before_attacks(
    classifier: CompiledClassifier,
    samples: Samples,
    attacks: dict[str, Attack],
    outputs: Array,
    again: Array,
) -> Iterator[Finding]:
    """All checks before the attacks, on the first of all samples.

    `outputs` and `again` are the logits of the same images in two passes.
    """
    unusual = int((~np.isfinite(outputs)).any(axis=1).sum())
    if unusual:
        yield (
            "non-finite",
            f"{unusual} of {len(outputs)} images have logits that are NaN "
            "or infinite. An image with NaN counts as misclassified, and "
            "gradients through infinities may be NaN, which no attack "
            "can follow. Mask classes with a number such as −1e4.",
        )
    if are_probabilities(outputs):
        yield (
            "softmax",
            "The classifier returns probabilities, not logits: its "
            "outputs are not negative and sum to 1. Gradients vanish "
            "behind a softmax, so attacks miss images that would fall. "
            "Remove it (`activation=None` in the last layer).",
        )
    averaged = any(attack.eot_samples > 1 for attack in attacks.values())
    if classifier.has_random_outputs and not averaged:
        with np.errstate(invalid="ignore"):
            largest = float(np.nanmax(np.abs(outputs - again)))
        yield (
            "random-outputs",
            "Two passes over the same images differ, by up to "
            f"{largest:.2g} in a logit. A gradient of one pass says "
            "little of the next, and an image that is wrong once may be "
            'right again. Evaluate with `version="rand"`, which averages '
            "over passes.",
        )
    rows = classifier.first_correct(samples, PROBED_GRADIENTS)
    if not len(rows):
        return
    found = [
        classifier.logits_and_gradients(
            samples.images[rows[part]], samples.labels[rows[part]]
        )
        for part in classifier.batches(len(rows))
    ]
    logits, gradients = map(np.concatenate, zip(*found, strict=True))
    gradients = gradients.reshape(len(rows), -1)
    yield from _check_gradients(gradients, logits, samples.classes[rows])
    yield from _check_equal_losses(logits)


def findings_after_attacks(tally: Tally) -> Iterator[Finding]:
    """What the numbers of the attacks show."""
    for name, count in zip(tally.names, tally.outside, strict=True):
        if count:
            yield (
                "outside-threat-model",
                f"{name} has returned {count} image(s) outside the ball or the "
                "bounds; they do not count as broken. End your attack in "
                "`threat_model.project`.",
            )
    if tally.steps is not None:
        yield from _check_black_box(tally)
        yield from _check_steps(tally, tally.steps)


def sees_no_gradients(attack: Attack, num_classes: int) -> bool:
    """Whether an attack is known to take no backward pass."""
    costs = attack.passes(num_classes)
    return costs is not None and not costs[1]


def _check_gradients(
    gradients: Array, logits: Array, classes: Array
) -> Iterator[Finding]:
    """Looks for images at which the cross-entropy has no usable gradient."""
    unusual = ~np.isfinite(gradients)
    images = int(unusual.any(axis=1).sum())
    if images:
        yield (
            "non-finite-gradients",
            "The gradient of the cross-entropy is NaN or infinite at "
            f"{images} of {len(gradients)} images "
            f"({images / len(gradients):.0%}), there in "
            f"{unusual.sum() / images / gradients.shape[1]:.0%} of the "
            "pixels. Attacks count such elements as 0 and see the rest alone, "
            "so that they miss images that would fall. The usual cause is a "
            "square root, a norm or a power at 0, or a division by 0, inside "
            "the network: add a small number there, as in sqrt(x + 1e-6). In "
            "float16 it may be an overflow.",
        )
    powers = np.exp(logits.astype("float64").T - logits.max(axis=1))
    doubts = 1 - powers[classes, np.arange(len(classes))] / powers.sum(axis=0)
    # Where the classifier is as sure as this, p − y is 0 in float32 on some
    # backends and a rounding error on others.
    zero = (doubts < _SURE) | ~np.where(unusual, 0, gradients).any(axis=1)
    share = float(zero.mean())
    if share > MOST_ZERO_GRADIENTS:
        yield (
            "zero-gradients",
            "The gradient of the cross-entropy is 0, or nothing but rounding, "
            f"at {zero.sum()} of {len(zero)} images ({share:.0%}). Attacks "
            "that follow it do not move there, and PGD counts such images as "
            "robust. Take the number of the whole list of attacks, and look "
            "for what takes the gradient away: logits that are too large, "
            "rounding, a step that cannot be differentiated.",
        )


def _check_equal_losses(logits: Array) -> Iterator[Finding]:
    """Looks for logits so close together that losses differ by rounding."""
    ranges = np.ptp(logits.astype("float64"), axis=1)
    # The rounding error of a cross-entropy is that of log K or of the largest
    # logit.
    size = np.maximum(np.abs(logits).max(axis=1), np.log(logits.shape[1]))
    rounding = np.finfo("float32").eps * size
    with np.errstate(invalid="ignore"):
        equal = ranges < _ROUNDINGS * rounding
    share = float(equal.mean())
    if share > MOST_ZERO_GRADIENTS:
        yield (
            "equal-losses",
            f"At {equal.sum()} of {len(logits)} images ({share:.0%}) the "
            "logits lie so close together that float32 can hardly tell one "
            "loss from another: the largest and the smallest logit of an "
            f"image differ by only {ranges[equal].min():.2g} to "
            f"{ranges[equal].max():.2g}, and "
            f"losses are rounded to {rounding[equal].max():.1g}. "
            "Attacks that compare losses, as APGD does and those on a "
            "divergence, do not see them rise. Multiply the logits by a "
            "constant, which changes no prediction, so that they differ by "
            "1 or more.",
        )


def _check_black_box(tally: Tally) -> Iterator[Finding]:
    """Looks for black-box attacks that break what white-box ones have left."""
    white_box = False
    for name, fell, black_box in zip(
        tally.names, tally.fell, tally.black_box, strict=True
    ):
        if not black_box:
            white_box = True
            continue
        drop = fell / tally.samples
        too_many = fell >= FEWEST_IMAGES and drop > LARGEST_BLACK_BOX_DROP
        if white_box and too_many:
            yield (
                "black-box",
                f"{name}, which sees no gradients, breaks {fell} "
                "images that the attacks before it have left, "
                f"{100 * drop:.1f} points of accuracy. That points to "
                "masked gradients, and the true robust accuracy is "
                "probably lower still. Attack the classifier with an "
                "adaptive attack, or run more queries.",
            )


def _check_steps(tally: Tally, steps: StepsCheck) -> Iterator[Finding]:
    """Looks for images that fall to twice the steps."""
    more, count = sum(steps.fell), len(steps.positions)
    share = more / max(1, count)
    if share > LARGEST_DROP and more >= FEWEST_IMAGES:
        yield (
            "not-converged",
            f"With twice the steps, {tally.names[steps.attack_number]} breaks "
            f"{more} more of {count} images ({100 * share:.1f} points). Its "
            "steps are too few for this classifier, so that the accuracy "
            "under it is too high. Raise `steps`, or the step size.",
        )


def try_twice_the_steps(
    classifier: CompiledClassifier,
    samples: Samples,
    attacks: dict[str, Attack],
    progress: Progress,
    seed: int,
) -> StepsCheck:
    """Gives the first attack that takes steps twice as many.

    On at most `PROBED_STEPS` of the images that it was run on, from the same
    random numbers. In a sweep it is the one with the largest radius at which
    half of the images were left to attack.
    """
    longer = {
        number: attack.longer
        for number, attack in enumerate(attacks.values())
        if attack.longer is not None and attack.epsilon > 0
    }
    if not longer:
        return StepsCheck(0, [], [])
    fair = progress.attacked[min(longer)] / 2
    number = max(
        (n for n in longer if progress.attacked[n] >= fair),
        key=lambda n: (longer[n].epsilon, -n),
    )
    fallen_to = progress.fallen_to
    reached = (fallen_to == STANDS) | (fallen_to > number)
    rows = np.flatnonzero(reached)[:PROBED_STEPS]
    stood = rows[fallen_to[rows] != number + 1]
    fell = np.zeros(len(fallen_to), bool)
    for part in classifier.batches(len(stood)):
        left = stood[part]
        for stage in range(longer[number].stages_for(samples.labels.shape[1])):
            if len(left):
                _, wrong, allowed = classifier.attack_and_judge(
                    longer[number], number, stage, samples, left, seed
                )
                broken = wrong & allowed
                fell[left[broken]] = True
                left = left[~broken]
    positions = samples.positions[rows].tolist()
    return StepsCheck(number, positions, fell[rows].tolist())
