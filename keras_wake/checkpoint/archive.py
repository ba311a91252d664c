"""The file of a backup or evaluation: arrays and JSON in one archive.

NumPy's format, not HDF5: a full disk is an `OSError` here, while HDF5 keeps
the broken file open and ends the process with a segmentation fault.
"""

import errno
import json
import pathlib
import zipfile

import keras
import numpy as np
from keras import ops

from keras_wake.checkpoint.files import atomic_write
from keras_wake.utils import validate
from keras_wake.utils.types import Config
from keras_wake.utils.types import Json
from keras_wake.utils.types import Tensor

# Stands in the JSON text for an array of the archive.
_ARRAY = "__array__"


def write(path: pathlib.Path, state: Config, values: list[np.ndarray]) -> None:
    """Writes an archive, replacing the one that is there.

    Args:
        path: The file.
        state: Dictionaries, lists, numbers, texts and arrays.
        values: Arrays, as `snapshot.take` returns them.
    """
    arrays: dict[str, Tensor] = {}

    def stored(value: object) -> Json:
        """What stands in the JSON text for a value that JSON does not know."""
        if isinstance(value, keras.Variable) or ops.is_tensor(value):
            value = ops.convert_to_numpy(value)
        if not isinstance(value, (np.ndarray, np.generic)):
            raise TypeError(
                "The state of a callback, and the logs of an epoch, must be "
                "made of dictionaries, lists, numbers, texts and arrays to be "
                f"backed up. Received: {value!r} (of type "
                f"{type(value).__name__})."
            )
        name = f"array_{len(arrays)}"
        arrays[name] = _plain(value)
        return {_ARRAY: name}

    text = json.dumps(state, default=stored)
    arrays |= {f"value_{n}": _plain(v) for n, v in enumerate(values)}
    # As an array, so that the archive has a checksum of it.
    arrays["state"] = np.frombuffer(text.encode(), "uint8")
    with atomic_write(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays)


def read(path: pathlib.Path) -> tuple[Config, list[np.ndarray]]:
    """Reads what `write` has written.

    Raises:
        FileNotFoundError, NotADirectoryError: If there is none.
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)

        def restored(value: Config) -> Json:
            # `[()]` turns an array without axes back into a NumPy number.
            is_array = set(value) == {_ARRAY}
            return arrays[value[_ARRAY]][()] if is_array else value

        text = arrays["state"].tobytes()
        state = json.loads(text, object_hook=restored)
        if not isinstance(state, dict):
            raise ValueError("its state is no dictionary")
        count = sum(name.startswith("value_") for name in arrays)
        return state, [arrays[f"value_{n}"] for n in range(count)]
    # NumPy and `zipfile` raise many kinds of errors for a damaged archive, also
    # an `OSError` of a seek beyond the file.
    except Exception as error:
        seek = (None, errno.EINVAL, errno.EOVERFLOW)
        if isinstance(error, OSError) and error.errno not in seek:
            raise
        raise ValueError(
            f"The file {path} cannot be read: "
            f"{validate.reason(error).rstrip('.')}. Delete it to start from "
            "the beginning."
        ) from error


def _check_size(path: pathlib.Path) -> None:
    """Refuses a small file that would fill the memory, before it is read."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as file:
        unpacked = sum(member.file_size for member in file.infolist())
    if unpacked > size:
        raise ValueError(
            f"it would unpack to {unpacked:,} bytes, and an archive of "
            f"keras-wake is not compressed ({size:,} bytes)"
        )


def _plain(value: Tensor) -> np.ndarray:
    """An array of a type that NumPy can write; bfloat16 fits in float32."""
    value = np.asarray(value)
    return value if value.dtype.kind in "biufc" else value.astype("float32")
