"""The one place where keras-wake meets a deep-learning framework.

Everything else is written in `keras.ops`. Each backend is one file with the
same few names: `Trainer` (the compiled training and test step), `compile`,
`input_gradient`, `side_by_side`, `global_sum`, `replica_index`, `to_numpy`
and `use_xla`.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_wake.backend.tensorflow import compile
    from keras_wake.backend.tensorflow import global_sum
    from keras_wake.backend.tensorflow import input_gradient
    from keras_wake.backend.tensorflow import replica_index
    from keras_wake.backend.tensorflow import side_by_side
    from keras_wake.backend.tensorflow import to_numpy
    from keras_wake.backend.tensorflow import Trainer
    from keras_wake.backend.tensorflow import use_xla
else:
    raise ImportError(
        "This version of keras-wake runs on Keras's TensorFlow backend. "
        f"Received: backend {keras.backend.backend()!r}. Set the environment "
        "variable KERAS_BACKEND=tensorflow before Keras is imported."
    )

__all__ = [
    "Trainer",
    "compile",
    "global_sum",
    "input_gradient",
    "replica_index",
    "side_by_side",
    "to_numpy",
    "use_xla",
]
