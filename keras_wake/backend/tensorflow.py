"""TensorFlow: input gradients, and the compiled step.

Under `tf.distribute` the functions here run once per replica, on that
replica's share of the batch.
"""

import contextvars
import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_wake.backend import keras_compat
from keras_wake.backend._common import CommonTrainer
from keras_wake.backend._common import no_gradient
from keras_wake.backend.tensorflow_replicas import device_count
from keras_wake.backend.tensorflow_replicas import is_multi_worker
from keras_wake.backend.tensorflow_replicas import replica_index
from keras_wake.utils.types import Tensor


def gradient_and_outputs(
    function: Callable, values: Tensor
) -> tuple[Tensor, Any]:
    """Gradient of a scalar, and what else the function has computed."""
    # No variable is watched, so the gradient costs nothing for the weights.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        result, outputs = function(values)
    # Of several tensors, those that do not affect the result get zeros.
    missing = "zero" if isinstance(values, list) else "none"
    found = tape.gradient(result, values, unconnected_gradients=missing)
    return no_gradient(values) if found is None else found, outputs


def repeat(times: int, function: Callable, value: Tensor) -> Tensor:
    """`function` applied to `value` so many times.

    As a loop, which is as fast as written out and compiles sooner.
    """
    return keras.ops.fori_loop(0, times, lambda _, v: function(v), value)


def without_gradient(function: Callable) -> Tensor:
    """The result of `function()`, through which no gradient goes."""
    return tf.stop_gradient(function())


def where_sample(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """For each sample `new` where `which` (batch,) holds, else `old`.

    This `where` copies whole samples. That of TensorFlow 2 broadcasts, and
    takes ten times as long.
    """
    return tf.compat.v1.where(which, new, old)


# Whether the function that is being traced is compiled for batches of any size.
_takes_any_size = contextvars.ContextVar("takes_any_size", default=False)


def batches_may_shrink() -> bool:
    """Within `compile` and `compile_split`, if they do not use XLA.

    Not in a training step: a user may have it compiled by XLA.
    """
    return _takes_any_size.get()


def _for_any_size(function: Callable) -> Callable:
    """`function`, in which batches may shrink if XLA does not compile it."""

    def run(*tensors: Tensor) -> Tensor:
        token = _takes_any_size.set(not jit_by_default())
        try:
            return function(*tensors)
        finally:
            _takes_any_size.reset(token)

    return run


def while_loop_of_any_size(
    condition: Callable, body: Callable, values: tuple
) -> tuple:
    """`keras.ops.while_loop` in which the axis of the batch may get smaller."""
    shapes = keras.tree.map_structure(
        lambda value: tf.TensorShape(
            [None, *value.shape[1:]] if value.shape.rank else []
        ),
        values,
    )
    return tf.while_loop(condition, body, values, shape_invariants=shapes)


def side_by_side(function: Callable, *tensors: Tensor) -> Tensor:
    """`function(*tensors)`.

    On a CPU the two halves of the batch are computed next to each other.
    There an operation of a few milliseconds gains little from a second core,
    because the threads wait for one another after each; two independent
    chains of operations do not. It pays off most where one operation gets
    half of the cores (`benchmarks/train_step.py`).
    """
    if jit_by_default():
        return function(*tensors)
    size = tf.shape(tensors[0])[0]
    middle = (size + 1) // 2
    # A single image is in both halves, because convolutions fail on an empty
    # batch.
    start = tf.maximum(tf.minimum(middle, size - 1), 0)
    half = function
    if not tf.executing_eagerly():
        # Traced once for both. (`partial`: see `compile`.)
        half = tf.function(functools.partial(function), autograph=False)
    first = half(*(tensor[:middle] for tensor in tensors))
    second = half(*(tensor[start:] for tensor in tensors))
    return tf.concat([first, second], axis=0)[:size]


def copy(variable: keras.Variable | tf.Variable) -> Tensor:
    """The value of a variable, in a tensor of its own on the same device."""
    return tf.identity(tf.convert_to_tensor(variable))


def accelerators() -> list[str]:
    """The names of the GPUs and TPUs."""
    details = tf.config.experimental.get_device_details
    return [
        details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices()
        if device.device_type in ("GPU", "TPU")
    ]


def jit_by_default() -> bool:
    """Whether XLA pays off here.

    On a CPU it does not: a PGD-10 step of PreActResNet-18 (width 16, batch
    64) takes an order of magnitude longer under XLA, which does not
    parallelise convolutions inside a loop (`benchmarks/backends.py`).
    """
    devices = tf.config.list_logical_devices()
    return any(device.device_type in ("GPU", "TPU") for device in devices)


def jit(function: Callable, network: keras.Model) -> Callable:
    """`function(network, ...)` under XLA, for a part of a step."""
    return tf.function(
        functools.partial(function, network), jit_compile=True, autograph=False
    )


def compile(function: Callable, get_model: Callable) -> Callable:
    """Compiles `function`. A graph reads variables by reference."""
    compiled: dict[tuple, Callable] = {}

    def run(*tensors: Tensor) -> Tensor:
        # One for each shape of an image. With `reduce_retracing` its sides
        # would be left open as well, which attacks need to know.
        key = tuple((tuple(t.shape[1:]), t.dtype) for t in tensors)
        if key not in compiled:
            # TensorFlow identifies functions by their code. Without `partial`
            # it would warn that one function is traced again and again.
            compiled[key] = tf.function(
                functools.partial(_for_any_size(function)),
                reduce_retracing=True,
                jit_compile=jit_by_default(),
                autograph=False,
            )
        return compiled[key](*tensors)

    return run


def compile_split(
    function: Callable, get_model: Callable, split: int
) -> Callable:
    """`compile`, for batches of any size, each divided among the devices.

    It is traced once for images of a shape: the size of a batch is left open.
    """
    # XLA compiles what one device does, and not how the batch is divided.
    on_one_device = tf.function(
        _for_any_size(function), jit_compile=jit_by_default(), autograph=False
    )

    def on_all_devices(*tensors: Tensor) -> Tensor:
        devices = device_count(get_model())
        if devices == 1:
            return on_one_device(*tensors)

        def on_replica() -> Tensor:
            size = tf.shape(tensors[0])[0] // devices
            start = replica_index() * size
            shares = [
                tensor[start : start + size] for tensor in tensors[:split]
            ]
            return on_one_device(*shares, *tensors[split:])

        strategy = get_model().distribute_strategy
        results = strategy.experimental_local_results(strategy.run(on_replica))
        return tf.concat(results, axis=0)

    compiled: dict[tuple, Callable] = {}

    def run(*tensors: Tensor) -> Tensor:
        # As concrete functions: TensorFlow would take the functions of
        # several attacks for one that is traced again and again, and warn.
        specs = tuple(
            tf.TensorSpec(
                (None, *tensor.shape[1:]) if number < split else tensor.shape,
                tensor.dtype,
            )
            for number, tensor in enumerate(tensors)
        )
        if specs not in compiled:
            compiled[specs] = tf.function(
                on_all_devices, autograph=False
            ).get_concrete_function(*specs)
        return compiled[specs](*tensors)

    return run


class Trainer(CommonTrainer):
    """The steps that `fit` and `evaluate` compile, for `WakeModel`."""

    def choose_jit(self, given: bool | str) -> tuple[bool, bool]:
        """Of several replicas, XLA compiles the attack alone.

        A step with the sums over the replicas in it hangs (keras#20763).
        """
        several = self.distribute_strategy.num_replicas_in_sync > 1
        if given == "auto":
            pays = jit_by_default()
            return pays and not several, pays and several
        if given and several:
            warnings.warn(
                "With several replicas, TensorFlow may wait for ever in a "
                "step that is compiled as a whole (keras#20763). Leave "
                'jit_compile="auto", which compiles the attack alone: nearly '
                "all of the step. Received: jit_compile=True.",
                stacklevel=3,
            )
        return bool(given), False

    def make_train_function(self, force: bool = False) -> Callable | None:
        """As in Keras. Refuses what several replicas cannot compute."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1 and isinstance(
            self.optimizer, keras.optimizers.LossScaleOptimizer
        ):
            # Keras lets each replica decide by itself whether gradients have
            # overflowed: some would skip an update, and others wait for them.
            raise ValueError(
                "With several replicas, Keras's scaling of the loss for "
                "float16 does not work on TensorFlow. Use "
                '"mixed_bfloat16", which needs none, or one replica. '
                f"Received: {replicas} replicas and a LossScaleOptimizer."
            )
        accumulated = self.optimizer.gradient_accumulation_steps
        if replicas > 1 and accumulated:
            raise ValueError(
                "With several replicas, Keras's accumulation of gradients does "
                "not work on TensorFlow: it updates the weights within a "
                "condition. Use a larger batch, or one replica. Received: "
                f"{replicas} replicas and gradient_accumulation_steps="
                f"{accumulated}."
            )
        self._check_attack(self.training_step.attack)
        return super().make_train_function(force=force)

    def make_test_function(self, force: bool = False) -> Callable | None:
        """As in Keras. Refuses what several replicas cannot compute."""
        self._check_attack(self.evaluation_step.attack)
        return super().make_test_function(force=force)

    def _guarded(self, function: Callable, phase: str) -> Callable:
        def steps(iterator: Any) -> Any:
            replicas = self.distribute_strategy.num_replicas_in_sync
            if replicas > 1 and self.steps_per_execution > 1:
                # Keras's loop over several steps fails on several replicas.
                # For an iterator of Python it makes them one by one.
                iterator = itertools.chain([next(iterator)], iterator)
            return function(iterator)

        return super()._guarded(steps, phase)

    def _check_attack(self, attack: Any) -> None:
        """Refuses an attack whose passes would wait for other replicas."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1 and getattr(attack, "training", False):
            layers = keras_compat.flatten_layers(self.classifier)
            if any(getattr(layer, "synchronized", False) for layer in layers):
                raise ValueError(
                    "On TensorFlow, replicas cannot exchange the statistics "
                    "of a synchronised batch norm within the loop of an "
                    "attack. Use an attack with `training=False`, or "
                    "`BatchNormalization(synchronized=False)`. Received: "
                    f"{replicas} replicas and `{attack.name}` with "
                    "`training=True`."
                )

    def train_step(self, data: Any) -> dict[str, Any]:
        """Attack, update the student, average the teacher, report."""
        batch = self.training_step.check_and_attack(data)
        self.training_step.perturb_weights(batch)
        updates_before = self.optimizer_updates()
        super().train_step(batch)
        self.training_step.finish(self.optimizer_updates() - updates_before)
        return self._in_keras_form(self.get_metrics_result())

    def test_step(self, data: Any) -> dict[str, Any]:
        """Accuracy on clean and on adversarial images, without any update."""
        return self._in_keras_form(self.evaluate_batch(data))

    def _in_keras_form(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs of a step, in the form in which Keras reduces them."""
        if not is_multi_worker(self.distribute_strategy):
            return logs
        # With several workers Keras takes the mean along the first axis.
        return {name: value[tf.newaxis] for name, value in logs.items()}

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """As in Keras, but takes a batch from several workers, too."""
        strategy = self.distribute_strategy
        metrics = keras_compat.compiled_metrics(self)
        if metrics is None or metrics.built:
            # Nothing is left to build. Taking a batch only to build also uses
            # up the prefetched ones, and Keras would see a short epoch.
            iterator = None
        if iterator is not None and is_multi_worker(strategy):
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0],
                next(batches),
            )
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several that writes files."""
        return self.distribute_strategy.extended.should_checkpoint

    def of_all_processes(self, value: Tensor) -> list[Any]:
        """The `value` of each process, the chief's first."""
        strategy = self.distribute_strategy
        if not is_multi_worker(strategy):
            return [value]
        own = strategy.run(lambda: tf.constant(value)[tf.newaxis])
        return list(strategy.gather(own, axis=0).numpy())
