"""Reads curves over epochs from the histories that Keras writes.

Three shapes are understood: `History.history` (a dictionary of lists), the
columns of a `CSVLogger` file (the same with texts as values and `epoch`
counted from 0) and its rows (a list of dictionaries). A curve is a pair of
arrays, epochs counted from 1 and values, without the missing points.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_wake.utils.types import Json

# What `fit` returns the `.history` of, or the columns or rows of a CSV file.
History = Mapping[str, Sequence[Json]] | Sequence[Mapping[str, Json]]
Curve = tuple[np.ndarray, np.ndarray]
Columns = dict[str, list[Json]]

# What CSVLogger, csv and pandas write where an epoch has no value.
MISSING = ("", "NA", "None", "nan", "NaN")


def columns_of(history: History) -> Columns:
    """The history as lists under their keys."""
    if isinstance(history, Mapping):
        return {
            str(key): list(values)
            for key, values in history.items()
            if isinstance(values, (Sequence, np.ndarray))
            and not isinstance(values, str)
        }
    is_rows = isinstance(history, Sequence) and not isinstance(history, str)
    if is_rows and all(isinstance(row, Mapping) for row in history):
        keys = dict.fromkeys(key for row in history for key in row)
        return {str(key): [row.get(key) for row in history] for key in keys}
    raise ValueError(
        "A history must be a dictionary of lists, such as the `.history` of "
        "what `fit` returns, or a list of rows of a CSVLogger file. "
        f"Received: {type(history).__name__}."
    )


def curve(columns: Columns, key: str, validation_freq: int = 1) -> Curve | None:
    """The points of one key, or None where there are none."""
    if key not in columns:
        return None
    values = np.array([_number(key, value) for value in columns[key]])
    epochs = _epochs(columns)
    if len(values) < len(epochs) and key.startswith("val_"):
        epochs = epochs[epochs % validation_freq == 0]
    if len(values) != len(epochs):
        raise ValueError(
            f"The history holds {len(values)} values of {key!r} for "
            f"{len(epochs)} epochs, so their epochs are unknown. Fill the "
            "gaps with None or, if `fit` ran with `validation_freq`, pass "
            f"the same number. Received: validation_freq={validation_freq}."
        )
    present = np.isfinite(values)
    if not present.any():
        return None
    return epochs[present], values[present]


def _epochs(columns: Columns) -> np.ndarray:
    if "epochs" in columns:
        return np.array([_number("epochs", e) for e in columns["epochs"]])
    if "epoch" in columns:
        return np.array([_number("epoch", e) + 1 for e in columns["epoch"]])
    longest = max((len(values) for values in columns.values()), default=0)
    return np.arange(1, longest + 1, dtype="float64")


def _number(key: str, value: Json) -> float:
    if value is None or (isinstance(value, str) and value.strip() in MISSING):
        return float("nan")
    try:
        return float(np.asarray(value, dtype="float64").item())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A value of {key!r} in the history is not a number. "
            f"Received: {value!r}."
        ) from error
