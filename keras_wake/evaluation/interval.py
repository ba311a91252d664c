"""The confidence interval of a share."""

import math
import statistics

from keras_wake.utils import validate

CONFIDENCE = 0.95
METHOD = "Wilson"


def percents(interval: tuple[float, float]) -> str:
    """The ends of an interval in per cent."""
    low, high = interval
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def wilson_interval(
    successes: int, samples: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927).

    It stays within [0, 1] and is not empty where p is 0 or 1. It covers the
    chance of which images were drawn, not the chance that a stronger attack
    exists.

    Args:
        successes: How many samples count.
        samples: How many there are.
        confidence: Between 0 and 1. Defaults to `0.95`.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If there are no samples, or more successes than samples.

    Example:

    >>> low, high = wilson_interval(50, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    samples = validate.integer(1, samples=samples)
    successes = validate.integer(0, successes=successes)
    if successes > samples:
        raise ValueError(
            "`successes` must be at most `samples`. Received: "
            f"successes={successes}, samples={samples}."
        )
    confidence = validate.fraction(confidence=confidence)
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / samples
    centre = share + z**2 / (2 * samples)
    half = z * math.sqrt(
        share * (1 - share) / samples + z**2 / (4 * samples**2)
    )
    scale = 1 + z**2 / samples
    # Where all or none count, rounding would leave an end beside 0 or 1.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == samples else (centre + half) / scale
    return low, high
