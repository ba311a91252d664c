"""Keras's loop around the steps of a `WakeModel`.

`fit`, `evaluate` and their relatives do here what they do in Keras, and three
things more: refuse data that cannot be right, start with everything off that
the callbacks of an earlier call have switched on, and compile a step again
when what it has to do has changed.
"""

import inspect
import warnings
from typing import Any

import keras

from keras_wake import backend
from keras_wake.backend import keras_compat
from keras_wake.callbacks._average import TeacherAverage
from keras_wake.data import array_batches
from keras_wake.data import fault_counts
from keras_wake.data import input_checks
from keras_wake.data.array_batches import Batches
from keras_wake.training import callback_list
from keras_wake.training import fit


class KerasLoop(backend.Trainer):
    """Base of `WakeModel`: everything that is not about what a step does."""

    # Set by `WakeModel`.
    attack: Any
    eval_attack: Any
    objective: Any
    schedule: Any
    num_classes: int
    teacher_updates: Any

    def _prepare_loop(self, classifier: Any) -> None:
        """Sets what the loop remembers; for the constructor."""
        self.input_faults = fault_counts.InputFaults()
        self._image_shape = input_checks.image_shape(classifier)
        self._averager: Any = None
        self._pretrained: tuple[Any, ...] = ()
        self._attribution_on = False
        self._evaluates_teacher = False
        self._phase = "train"
        # Batch norm makes NaN of a replica's share without an image.
        self._needs_images = any(
            isinstance(layer, keras.layers.BatchNormalization)
            and not layer.synchronized
            for layer in keras_compat.flatten_layers(classifier)
        )
        self._compiled_for: dict[str, Any] = {}
        self._labels: Any = None
        self.fit_data: Any = None
        self.fit_callbacks: Any = None
        self.fit_has_validation = False
        self.fit_is_one_of_several = False

    @property
    def metrics_names(self) -> list[str]:
        """Names of the metrics that are in use; `evaluate` returns others.

        `evaluate(..., return_dict=True)` names what it returns.
        """
        return [m.name for m in self.metrics if m is not self.input_faults]

    @property
    def teacher_in_use(self) -> bool:
        """Whether the teacher has ever been averaged, or is about to be."""
        if self._averager is not None and self._averager.distils:
            return True
        self.sync_variables()
        return int(backend.to_numpy(self.teacher_updates)) > 0

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        jit_compile: Any = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures the model for training, as `keras.Model.compile`.

        Args:
            optimizer: As in Keras.
            loss: Must stay `None`: the loss follows from the objective.
            metrics: Computed on clean images in `evaluate`.
            jit_compile: `True`, `False` or `"auto"`. Auto takes what is
                fast: XLA on JAX, on TensorFlow on GPU and TPU only, and no
                `torch.compile` on PyTorch. Defaults to `"auto"`.
            **kwargs: As in Keras.

        Raises:
            ValueError: If a loss is given, or if the optimizer averages the
                weights (`use_ema`) and the objective is `AWP`.
        """
        if loss is not None:
            raise ValueError(
                "WakeModel computes its own loss from its objective. "
                f"Received: loss={loss!r}. Leave it out, or pass "
                "`WakeModel(..., objective=)`."
            )
        if kwargs.get("loss_weights") is not None:
            raise ValueError(
                "`loss_weights` has no use in WakeModel, which has one loss. "
                f"Received: loss_weights={kwargs['loss_weights']!r}."
            )
        self.objective.check_optimizer(optimizer)
        self._jit_compile_given = jit_compile
        if jit_compile == "auto" and not backend.jit_by_default():
            jit_compile = False
        super().compile(
            optimizer=optimizer,
            metrics=metrics,
            jit_compile=jit_compile,
            **kwargs,
        )

    def get_compile_config(self) -> Any:
        """The arguments of `compile`; `"auto"` is decided again on loading."""
        config = super().get_compile_config()
        if config:
            config["jit_compile"] = self._jit_compile_given
            config["optimizer"] = _of_any_backend(config["optimizer"])
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as it was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains the student, as `keras.Model.fit`.

        Raises:
            TypeError, ValueError: For data that cannot be right: images that
                are not floating point, outside the bounds or with NaN, labels
                that name no class, an empty data set; for a schedule without
                a teacher.
        """
        self.check_and_update_teacher()
        self.check_optimizer()
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        # A `fit` with `initial_epoch` may be one of several, so it need not
        # reach the end of a schedule.
        self.fit_is_one_of_several = "initial_epoch" in given
        fit.check(given, self._image_shape, self.num_classes)
        # What the callbacks of an earlier fit have switched on is off again:
        # no trainer calls their `on_train_end` when it raises.
        self._averager = None
        self._pretrained = ()
        self._attribution_on = False
        self._phase = "train"
        self.fit_data = (given.get("x"), given.get("y"))
        self.fit_has_validation = bool(
            given.get("validation_data") is not None
            or given.get("validation_split")
        )
        self._labels = fit.label_spec(given.get("x"), given.get("y"))
        backup_facts = {
            "epochs": int(given.get("epochs", 1)),
            "initial_epoch": int(given.get("initial_epoch", 0)),
            "batches": fit.data_settings(given),
        }
        array_batches.shared(self, given, training=True)
        # A pipeline shuffles by itself: with its default, Keras would warn.
        if isinstance(given.get("x"), Batches):
            given["shuffle"] = False
        elif given.get("y") is None and not isinstance(
            given.get("x"), keras.utils.PyDataset
        ):
            given.setdefault("shuffle", False)
        given["callbacks"] = callback_list.prepare(given.get("callbacks"), self)
        self.fit_callbacks = callback_list.unwrapped(given["callbacks"])
        try:
            if any(isinstance(c, TeacherAverage) for c in self.fit_callbacks):
                self.compare_teacher()
            with callback_list.open_backups(self, backup_facts):
                return super().fit(**given)
        finally:
            self.fit_data = None
            self.fit_callbacks = None
            # Set by a backup; Keras would start later calls there as well.
            self._initial_epoch = None
            self._attribution_on = False
            self._pretrained = ()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Clean and robust accuracy, as `keras.Model.evaluate`.

        Raises:
            TypeError, ValueError: For data that cannot be right, as `fit`.
        """
        within_fit = kwargs.get("_use_cached_eval_dataset", False)
        if not within_fit:
            private = {"_use_cached_eval_dataset"}
            kwargs = {k: v for k, v in kwargs.items() if k not in private}
            kwargs = dict(
                inspect.signature(super().evaluate)
                .bind(*args, **kwargs)
                .arguments
            )
            args = ()
            self.check_and_update_teacher()
            fit.check(kwargs, self._image_shape, self.num_classes)
            array_batches.shared(self, kwargs, training=False)
            kwargs["callbacks"] = callback_list.prepare(
                kwargs.get("callbacks"), self
            )
        elif self._averager is not None:
            self._averager.bring_up_to_date()
        self._labels = fit.label_spec(kwargs.get("x"), kwargs.get("y"))
        # A callback of `fit` may evaluate other data within an epoch, and the
        # metrics of the epoch go on afterwards.
        phase, attribution_on = self._phase, self._attribution_on
        kept = []
        if self.fit_callbacks is not None and not within_fit:
            self.sync_variables()
            kept = [
                (variable, backend.to_numpy(variable))
                for metric in self.metrics
                for variable in metric.variables
            ]
        self._phase = "test"
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.sync_variables()
            for variable, value in kept:
                variable.assign(value)
            self._phase, self._attribution_on = phase, attribution_on

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Logits of the student, as `keras.Model.predict`."""
        given = inspect.signature(super().predict).bind(*args, **kwargs)
        x, steps = given.arguments["x"], given.arguments.get("steps")
        fit.check_images(x, self._image_shape, steps)
        # Between two steps JAX has the weights elsewhere, and Ctrl-C may come
        # there, or a callback of `fit` may ask.
        self.sync_variables()
        try:
            return super().predict(*args, **kwargs)
        finally:
            self.sync_variables()

    def predict_on_batch(self, x: Any) -> Any:
        """Logits of one batch, as `keras.Model.predict_on_batch`."""
        fit.check_images(x, self._image_shape)
        return super().predict_on_batch(x)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """One step on one batch, as `keras.Model.train_on_batch`.

        A loss that is NaN is returned as it is, and the weights with it; only
        `fit` goes back to those before.

        Raises:
            TypeError, ValueError: For data that cannot be right, as `fit`.
        """
        given = self._of_batch(super().train_on_batch, args, kwargs)
        logs = super().train_on_batch(**given)
        self.raise_for_faults("of this batch")
        return logs

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Metrics of a single batch, as `keras.Model.test_on_batch`.

        Raises:
            TypeError, ValueError: For data that cannot be right, as `fit`.
        """
        given = self._of_batch(super().test_on_batch, args, kwargs)
        phase, self._phase = self._phase, "test"
        try:
            logs = super().test_on_batch(**given)
        finally:
            self._phase = phase
        self.raise_for_faults("of this batch")
        return logs

    def _of_batch(self, method: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """The arguments of a method of one batch by name, checked."""
        self.forget_faults()
        given = inspect.signature(method).bind(*args, **kwargs).arguments
        fit.check(given, self._image_shape, self.num_classes)
        self._labels = fit.label_spec(None, given["y"])
        return given

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the training step, again if its callbacks changed."""
        distils = self._averager is not None and self._averager.distils
        if self.schedule is not None and not distils:
            raise ValueError(
                "The schedule distils from a running average, but no callback "
                "makes one. Add `keras_wake.callbacks.EMATeacher()` to the "
                "callbacks of `fit`, or pass `schedule=None`."
            )
        if self._averager is None and self.teacher_in_use:
            warnings.warn(
                "The teacher of an earlier `fit` stays as it is, and stays "
                "the `robust_classifier`: no callback of this `fit` averages "
                "it. Add the same `keras_wake.callbacks.EMATeacher` to go on.",
                stacklevel=2,
            )
        setting = (self._averager, self._pretrained, self._labels)
        force = self._changed("train", setting) or force
        return super().make_train_function(force=force)

    def make_test_function(self, force: bool = False) -> Any:
        """Compiles the test step, again if what it measures changed."""
        # Read here, because a step that is being compiled cannot.
        self._evaluates_teacher = self.teacher_in_use
        setting = (self._evaluates_teacher, self._attribution_on, self._labels)
        force = self._changed("test", setting) or force
        return super().make_test_function(force=force)

    def _changed(self, function: str, setting: Any) -> bool:
        changed = self._compiled_for.get(function, setting) != setting
        self._compiled_for[function] = setting
        return changed

    def raise_for_faults(self, where: str) -> tuple[int, int]:
        """Raises for what the steps since the last call have counted.

        Args:
            where: Which images were looked at, for the message.

        Returns:
            In how many of the steps the loss was not finite, and in how many
            the weights were not, after them: no faults of the images.

        Raises:
            ValueError: For images with NaN or outside the bounds and for
                labels that name no class.
        """
        (values,) = self.metric_values(self.input_faults)
        counts = fault_counts.FaultCounts(*map(int, values))
        needs_images = self._phase == "train" and self._needs_images
        bounds = (self.attack or self.eval_attack).bounds
        try:
            fault_counts.raise_for_batches(counts, needs_images, where)
            fault_counts.raise_for_faults(
                counts[:3], bounds, self.num_classes, where
            )
        except ValueError:
            self.forget_faults()
            raise
        return counts.losses, counts.updates

    def forget_faults(self) -> None:
        """Starts to count from 0."""
        self.input_faults.reset_state()


def _of_any_backend(config: Any) -> Any:
    """The configuration of an optimizer with the names that all backends know.

    On PyTorch, Keras has classes of its own behind the public names.
    """
    if not isinstance(config, dict):
        return config
    config = {key: _of_any_backend(value) for key, value in config.items()}
    module = config.get("module") or ""
    if module.startswith("keras.src.backend.torch.optimizers"):
        config["module"] = "keras.optimizers"
    return config
