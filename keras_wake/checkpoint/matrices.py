"""Matrices of a run, each written once to a file of its own.

A run of 200 epochs with 1,000 classes measures 800 MB of them. So only the
last one is in memory, and a backup holds the names of the files.
"""

import collections
import dataclasses
import pathlib
import zlib

import numpy as np

from keras_wake.checkpoint.files import atomic_write
from keras_wake.utils.types import Json


@dataclasses.dataclass(repr=False)
class StoredMatrix:
    """A float32 matrix in a `.npy` file.

    Attributes:
        path: The file.
        checksum: CRC-32 of the numbers; `None` if it is unknown.
    """

    path: pathlib.Path
    checksum: int | None = None

    def __repr__(self) -> str:
        return f"<matrix in {self.path}>"

    @classmethod
    def write(cls, path: pathlib.Path, matrix: np.ndarray) -> "StoredMatrix":
        """Writes a matrix; the file is complete or what it was before."""
        matrix = np.ascontiguousarray(matrix, "float32")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as aside, open(aside, "wb") as file:
            np.save(file, matrix)
        return cls(path, _checksum(matrix))

    def read(self) -> np.ndarray:
        """The matrix; an error if the file is gone or has another one."""
        try:
            matrix = np.load(self.path, allow_pickle=False)
            if self.checksum not in (None, _checksum(matrix)):
                raise ValueError(
                    "it is damaged, or another run has replaced it. Use a "
                    "folder of its own for each run"
                )
            return matrix
        except FileNotFoundError:
            raise FileNotFoundError(
                f"The matrix was written to {self.path}, and that file is "
                "gone. Its score is still in the history."
            ) from None
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(
                f"The matrix in {self.path} cannot be read: {error}."
            ) from error


class Measurement(collections.UserDict):
    """An entry of the history, which reads its matrices when they are asked.

    Among its values is a `StoredMatrix` in place of each matrix.
    """

    def __getitem__(self, key: str) -> Json:
        value = self.data[key]
        return value.read() if isinstance(value, StoredMatrix) else value

    def to_state(self) -> dict[str, Json]:
        """For a backup: the names of files in place of matrices."""
        return {
            key: {"file": str(value.path), "checksum": value.checksum}
            if isinstance(value, StoredMatrix)
            else value
            for key, value in self.data.items()
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Json], folder: pathlib.Path | None
    ) -> "Measurement":
        """The entry again, its files in `folder` if they have moved there."""
        values = dict(state)
        for key, value in state.items():
            if isinstance(value, dict):
                path = pathlib.Path(value["file"])
                if folder and (folder / path.name).exists():
                    path = folder / path.name
                values[key] = StoredMatrix(path, value["checksum"])
        return cls(values)


def _checksum(matrix: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(matrix).data)
