"""What an archive brings back, and what it refuses."""

import keras
import numpy as np

from keras_wake.checkpoint import archive


def test_file_brings_back_every_kind_of_value(tmp_path):
    state = {
        "none": None,
        "numbers": [1, 2.5, float("inf"), True, np.float32(0.1)],
        "text": "ε",
        "array": np.arange(6.0).reshape(2, 3),
        "tensor": keras.ops.ones((2,), "float32"),
        "nested": [{"a": np.int64(3)}, (1, 2)],
    }
    bfloat = keras.ops.convert_to_numpy(keras.ops.ones((2,), "bfloat16"))
    values = [np.float32(2.5), np.ones((2, 0), "uint32"), bfloat]
    archive.write(tmp_path / "a.npz", state, values)
    found, arrays = archive.read(tmp_path / "a.npz")
    assert found["none"] is None and found["text"] == "ε"
    assert found["numbers"] == state["numbers"]
    np.testing.assert_array_equal(found["array"], state["array"])
    np.testing.assert_array_equal(found["tensor"], np.ones(2))
    assert found["nested"] == [{"a": 3}, [1, 2]]
    assert arrays[0] == 2.5 and arrays[1].shape == (2, 0)
    np.testing.assert_array_equal(arrays[2], np.ones(2))
