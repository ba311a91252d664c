"""The report of all images, from the reports of shares of them."""

import collections
import datetime
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from keras_wake.evaluation import reliability
from keras_wake.evaluation.interval import wilson_interval
from keras_wake.evaluation.report import AttackResult
from keras_wake.evaluation.report import RobustnessReport
from keras_wake.evaluation.shard import Shard
from keras_wake.evaluation.shard import StepsCheck
from keras_wake.evaluation.state import differences
from keras_wake.utils.types import Array


def join_reports(reports: Sequence[RobustnessReport]) -> RobustnessReport:
    """One report of all images, from the reports of all shares of them.

    The shares are those of `autoattack(shard=(i, n))` or
    `robust_accuracy(shard=(i, n))`, in any order, as they were returned or
    read from JSON. The report is that of one call without `shard`: all counts,
    accuracies, intervals and passes, and what makes them doubtful. `seconds`
    are those of all shares added up, and `batch_size` is the largest one.

    Args:
        reports: The reports of shares 0 to n − 1.

    Returns:
        A `RobustnessReport`. It has `fallen_to` and `images` if all shares
        have them, and saw the data in the same order.

    Raises:
        TypeError: If it is given anything but reports.
        ValueError: If a share is missing or there twice, or if the shares
            differ in classifier, data, settings or versions.

    Example:

    ```python
    reports = [
        kw.evaluation.RobustnessReport.from_json(path.read_text())
        for path in pathlib.Path("shards").glob("*.json")
    ]
    print(kw.evaluation.join_reports(reports))
    ```
    """
    joined = joined_report(reports)
    reliability.warn(joined.findings, None, stacklevel=2)
    return joined


def joined_report(reports: Sequence[RobustnessReport]) -> RobustnessReport:
    """`join_reports` without its warnings."""
    pairs = _in_order(reports)
    for pair in pairs[1:]:
        _check_same(pairs[0], pair)
    first, shard = pairs[0]
    samples = shard.samples

    def total(of: Callable[[RobustnessReport], Array]) -> Array:
        return np.sum([of(report) for report, _ in pairs], axis=0)

    clean_counts = total(lambda report: report.clean_counts)
    attacks, right = [], int(clean_counts.sum())
    for results in zip(*(report.attacks for report, _ in pairs), strict=True):
        joined = _joined_attack(results, right, samples)
        right -= joined.fell
        attacks.append(joined)
    tally = reliability.Tally(
        names=[attack.name for attack in attacks],
        fell=[attack.fell for attack in attacks],
        outside=np.sum([s.outside for _, s in pairs], axis=0).tolist(),
        black_box=shard.black_box,
        samples=samples,
        steps=_joined_steps([s.steps for _, s in pairs]),
    )
    # What the clean images show is about the first of all images, and so the
    # same in all shares.
    before = dict(
        finding
        for report, _ in reversed(pairs)
        for finding in reliability.of_clean_images(report.findings)
    )
    now = datetime.datetime.now(datetime.UTC)
    fields = {**vars(first), "shard": None}
    fields |= {
        "batch_size": max(report.batch_size for report, _ in pairs),
        "counts": total(lambda report: report.counts),
        "clean_counts": clean_counts,
        "robust_counts": total(lambda report: report.robust_counts),
        "attacks": tuple(attacks),
        "findings": (
            *before.items(),
            *reliability.findings_after_attacks(tally),
        ),
        "date": now.isoformat(timespec="seconds"),
        "fallen_to": _in_order_of_data(pairs, lambda r: r.fallen_to),
        "images": _in_order_of_data(pairs, lambda r: r.images),
    }
    return RobustnessReport(**fields)


Pair = tuple[RobustnessReport, Shard]


def _in_order(reports: Sequence[RobustnessReport]) -> list[Pair]:
    """The reports and their shards by number, all of them there once."""
    pairs = []
    for report in reports if isinstance(reports, (list, tuple)) else [reports]:
        if report is reports or not isinstance(report, RobustnessReport):
            raise TypeError(
                "`reports` must be a list of `RobustnessReport`, as "
                "`autoattack(shard=(i, n))` returns them; read files with "
                f"`RobustnessReport.from_json`. Received: {report!r}."
            )
        if report.shard is None:
            raise ValueError(
                "`reports` must be those of shares, as `autoattack(shard=(i, "
                f"n))` returns them. Received: {report!r}, which is about all "
                "of its images."
            )
        pairs.append((report, report.shard))
    if not pairs:
        raise ValueError("`reports` must hold at least one report.")
    pairs.sort(key=lambda pair: pair[1].index)
    counts = sorted({shard.count for _, shard in pairs})
    if len(counts) > 1:
        raise ValueError(
            "`reports` must be shares of one division. Received: shares of "
            f"{', '.join(map(str, counts))}."
        )
    found = collections.Counter(shard.index for _, shard in pairs)
    missing = [index for index in range(counts[0]) if index not in found]
    doubled = [index for index, times in found.items() if times > 1]
    if missing or doubled:
        words = [f"missing: {missing}"] if missing else []
        words += [f"more than once: {doubled}"] if doubled else []
        raise ValueError(
            f"`reports` must hold each of the {counts[0]} shares once, with "
            f"numbers from 0 to {counts[0] - 1}. Received: "
            f"{'; '.join(words)}."
        )
    return pairs


def _check_same(first: Pair, other: Pair) -> None:
    """Refuses two shares that are not of one evaluation."""
    (report, shard), (another, its_shard) = first, other
    words = differences(
        shard.fingerprint,
        its_shard.fingerprint,
        (f"share {shard.index}", f"share {its_shard.index}"),
    )
    for name in ("class_names", "passes_per_prediction", "versions"):
        one, two = getattr(report, name), getattr(another, name)
        if one != two:
            words.append(f"`{name}` ({one!r} and {two!r})")
    if words:
        raise ValueError(
            f"The shares {shard.index} and {its_shard.index} are not of the "
            f"same evaluation. These differ: {'; '.join(words)}. Evaluate all "
            "shares with the same classifier, data, settings and versions."
        )
    attacks = [attack.name for attack in report.attacks]
    if (
        shard.samples != its_shard.samples
        or attacks != [attack.name for attack in another.attacks]
        or {report.samples - shard.size, another.samples - its_shard.size}
        != {0}
    ):
        raise ValueError(
            f"The shares {shard.index} and {its_shard.index} contradict each "
            "other in the number of their images or attacks; a file has been "
            "changed. Evaluate them again."
        )


def _joined_attack(
    results: tuple[AttackResult, ...], right: int, samples: int
) -> AttackResult:
    """One attack on all images, of which so many stood before."""

    def total(numbers: Iterator[int | None]) -> int | None:
        values = [number for number in numbers if number is not None]
        return sum(values) if len(values) == len(results) else None

    fell = sum(result.fell for result in results)
    return AttackResult(
        name=results[0].name,
        settings=results[0].settings,
        epsilon=results[0].epsilon,
        attacked=sum(result.attacked for result in results),
        fell=fell,
        accuracy=(right - fell) / samples,
        interval=wilson_interval(right - fell, samples),
        forward_passes=total(result.forward_passes for result in results),
        backward_passes=total(result.backward_passes for result in results),
        seconds=sum(result.seconds for result in results),
        note=results[0].note,
    )


def _joined_steps(checks: list[StepsCheck | None]) -> StepsCheck | None:
    """The images that one evaluation of all would have looked at.

    Each share has looked at as many of its first images, and so at these.
    """
    known = [check for check in checks if check is not None]
    if not known:
        return None
    looked_at = sorted(
        pair
        for check in known
        for pair in zip(check.positions, check.fell, strict=True)
    )[: reliability.PROBED_STEPS]
    return StepsCheck(
        known[0].attack_number,
        [position for position, _ in looked_at],
        [fell for _, fell in looked_at],
    )


def _in_order_of_data(
    pairs: list[Pair], of: Callable[[RobustnessReport], Array | None]
) -> Array | None:
    """One value of each image; None unless all shares can tell which is which.

    Each share has its own images in the order of the data.
    """
    values = [of(report) for report, _ in pairs]
    places = [shard.places for _, shard in pairs]
    if len({shard.order for _, shard in pairs}) > 1:
        return None
    parts = [
        (place, value)
        for place, value in zip(places, values, strict=True)
        if place is not None and value is not None
    ]
    if len(parts) < len(pairs):
        return None
    joined = np.concatenate([value for _, value in parts])
    return joined[np.argsort(np.concatenate([place for place, _ in parts]))]
