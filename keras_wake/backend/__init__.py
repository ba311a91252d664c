"""The one place where keras-wake computes with a deep-learning framework.

Everything else is written in `keras.ops`, apart from batches of `tf.data` and
`copy_` of PyTorch buffers. Each backend has a file of its name, and others
(`jax_processes.py`, `tensorflow_replicas.py`, `torch_processes.py`,
`torch_trace.py`) for parts of it. All backends define the same names, for what
must differ:

- `Trainer`: the training and test step that Keras compiles;
- `gradient_and_outputs(function, values)`: `function` returns a scalar and a
  structure of tensors; the gradient of the first with respect to `values`, a
  tensor or a list of them, and the second, through which no gradient goes;
- `repeat(times, function, value)`: `function` applied so many times;
- `where_sample(which, new, old)`: sample by sample, one of two tensors;
- `batches_may_shrink()`: whether samples may leave the batch in the step that
  runs or is being compiled;
- `while_loop_of_any_size(condition, body, values)`: `keras.ops.while_loop` in
  which they may;
- `side_by_side(function, *tensors)`: the same as `function(*tensors)`, which
  treats the samples of a batch apart;
- `without_gradient(function)`: its result, through which no gradient goes;
- `recomputed(function)`: `function`, of which only the arguments are kept for a
  gradient, and which is called once more for it;
- `compile(function, get_model)`: compiles a function of tensors that reads
  the variables of `get_model()`; its updates of variables may be lost;
- `compile_split(function, get_model, split)`: the same for batches of any
  size, each divided among the devices. The first `split` arguments have a
  batch axis, whose size must be a multiple of the `device_count` of the model;
  the result is one tensor (batch, ...), sample by sample;
- `cut_gradients_are_zero`: where a missing gradient is 0, and no error;
- `global_sum`, `metric_sum`, `batch_positions`, `replica_index`, `replicas_of`:
  what replicas share, or not;
- `data_shard()`: the number of this process, how many share each batch of the
  data, and what the size of a process's share must be a multiple of;
- `divides_evenly`: whether all shares of a batch must have the same size;
- `processes(model)`: the number of this process, and how many work together;
- `gather_objects(model, value)`: the `value` of each of them, in their order;
- `own_value(variable)`: its value, for what one process computes alone;
- `check_distribution`: refuses a `keras.distribution` that cannot work;
- `saving_in_one_process`: a context in which one process may save by itself;
- `buffers`: tensors other than variables that a step changes;
- `random_state`, `set_random_state`: of generators that are not variables;
- `to_numpy`, `copy`: a value on the host, and one that stays on the device;
- `all_finite`: whether tensors have neither NaN nor infinity;
- `accelerators`: the names of the GPUs and TPUs that the backend sees;
- `jit_by_default`: whether compilation pays off;
- `jit(function, network)`: `function(network, ...)` for the attack of a step
  that is not compiled as a whole: by XLA on TensorFlow, with calls of the
  network traced on PyTorch. JAX compiles the whole step.
"""

from collections.abc import Callable

import keras

from keras_wake.backend._common import *  # noqa: F403

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_wake.backend.tensorflow import *  # noqa: F403
    from keras_wake.backend.tensorflow_replicas import *  # noqa: F403
elif _BACKEND == "jax":
    from keras_wake.backend.jax import *  # noqa: F403
    from keras_wake.backend.jax_processes import *  # noqa: F403
elif _BACKEND == "torch":
    from keras_wake.backend.torch import *  # noqa: F403
    from keras_wake.backend.torch_trace import *  # noqa: F403
else:
    raise ImportError(
        "keras-wake runs on Keras's TensorFlow, JAX and PyTorch backends. "
        f"Received: backend {_BACKEND!r}. Set the environment variable "
        "KERAS_BACKEND=tensorflow (or jax, or torch) before Keras is imported."
    )


def gradient(function: Callable, values: Tensor) -> Tensor:  # noqa: F405
    """Gradient of the scalar `function(values)`, a tensor or a list of them."""
    return gradient_and_outputs(  # noqa: F405
        lambda values: (function(values), ()), values
    )[0]
