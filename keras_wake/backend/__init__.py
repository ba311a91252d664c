"""The one place where keras-wake computes with a deep-learning framework.

Everything else is written in `keras.ops`, apart from batches of `tf.data` and
`copy_` of PyTorch buffers. Each backend is one file (JAX: two, its `Trainer` is
in `_jax_trainer.py`). All have the same few names, for what must differ:

- `Trainer`: the training and test step that Keras compiles;
- `compile`: the same for a function of tensors outside of `fit`;
- `compile_split`: the same for batches of any size, each divided among
  `device_count` devices;
- `gradient`, `gradient_and_outputs`, `repeat`, `side_by_side`: how an attack
  computes;
- `cut_gradients_are_zero`: where a missing gradient is 0, and no error;
- `without_gradient`: how the teacher computes;
- `global_sum`, `replica_index`, `replicas_of`: what replicas share, or not;
- `data_shard`: how several processes divide the data among them;
- `alone`: a context in which one of them saves by itself;
- `buffers`: tensors other than variables that a step changes;
- `random_state`, `set_random_state`: of generators that are not variables;
- `to_numpy`: a value on the host;
- `jit_by_default`: whether compilation pays off.
"""

import keras

from keras_wake.backend._common import *  # noqa: F403

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_wake.backend.tensorflow import *  # noqa: F403
elif _BACKEND == "jax":
    from keras_wake.backend.jax import *  # noqa: F403
elif _BACKEND == "torch":
    from keras_wake.backend.torch import *  # noqa: F403
else:
    raise ImportError(
        "keras-wake runs on Keras's TensorFlow, JAX and PyTorch backends. "
        f"Received: backend {_BACKEND!r}. Set the environment variable "
        "KERAS_BACKEND=tensorflow (or jax, or torch) before Keras is imported."
    )
