"""`WakeModel`: the methods that Keras calls, which pass the work to parts.

`fit` checks what it is given, lets callbacks switch things on, and has Keras
run. For each batch, Keras calls `train_step` of the backend's `Trainer`, which
calls the parts of `training.step.TrainingStep` in their order.
"""

import inspect
from contextlib import AbstractContextManager
from contextlib import nullcontext
from typing import Any

import keras

from keras_wake import backend
from keras_wake import objectives
from keras_wake.attacks import Attack
from keras_wake.backend import keras_compat
from keras_wake.backend import numerics
from keras_wake.checkpoint import model_files
from keras_wake.data.classifier import check_classifier
from keras_wake.data.sharding import shard_arrays
from keras_wake.losses.distillation import check_temperature
from keras_wake.schedules import Schedule
from keras_wake.training import fit as fit_checks
from keras_wake.training import teacher_copy
from keras_wake.training.evaluation_step import check_attacks
from keras_wake.training.evaluation_step import EvaluationStep
from keras_wake.training.evaluation_step import find_heads
from keras_wake.training.evaluation_step import NetworkMetrics
from keras_wake.training.guard import BatchGuard
from keras_wake.training.guard import InputGuard
from keras_wake.training.reduced_precision import copy_in
from keras_wake.training.session import FitSession
from keras_wake.training.session import prepared_callbacks
from keras_wake.training.session import Switches
from keras_wake.training.step import TrainingStep
from keras_wake.utils import validate
from keras_wake.utils.types import Config
from keras_wake.utils.types import Tensor

# Arguments that a config holds serialised, and as they are.
_OBJECTS = ("classifier", "attack", "objective", "eval_attack", "schedule")
_VALUES = ("temperature", "scale_distillation", "seed", "attack_dtype")
# Captured by compiled steps: a new value would have no effect.
_SETTINGS = (*_OBJECTS, *_VALUES, "num_classes", "teacher")


@keras.saving.register_keras_serializable(package="keras_wake")
class WakeModel(backend.Trainer):
    """Adversarial training of a classifier, with WAKE (Algorithm 2).

    In each step the attack finds δ on the student; the student then minimises

        (1 − λ_t) · objective + λ_t · KD(f_student(x + δ), f_teacher(x + δ))

    where λ_t is the schedule's weight in epoch t and the teacher is a running
    average of the student, switched on by the callback `EMATeacher`. Without
    a schedule and a teacher this is plain adversarial training. Networks that
    were trained before can be teachers as well: see `PretrainedTeacher`.

    Calling the model, or `predict`, gives the student's logits. What the
    algorithm returns is the averaged network, `robust_classifier`.

    Logs of training: `loss`, `robust_accuracy` (on the training batches as
    attacked; `accuracy` for an objective that sees clean images) and
    `kd_weight`. Logs of `evaluate`, with the prefix `val_` during `fit`:
    `loss` (the objective without distillation), `accuracy` (clean images),
    `robust_accuracy` (under `eval_attack`), with a teacher in use
    `teacher_accuracy` and `teacher_robust_accuracy` (attacked on its own), with
    `CrossClassAttribution` also `cas` and `teacher_cas`. An image whose
    `sample_weight` is 0 takes no part in them. Metrics given to `compile` are
    computed on clean images in `evaluate`.

    Args:
        classifier: Built `keras.Model`: float images (batch, ...) within the
            attack's bounds to logits (batch, K), K ≥ 2.
        attack: Attack of the training step. One that leaves its loss open
            ascends that of the objective. May be `None` for an objective that
            sees only clean images.
        objective: `"at"`, `"trades"`, `"mart"`, `"awp"`, `"standard"` or an
            `Objective`. Defaults to `"at"`.
        eval_attack: Attack of `evaluate`. Defaults to `None`: PGD with 20
            steps in the threat model of `attack`, step size epsilon / 4
            (epsilon / 8 for ℓ2).
        schedule: `DistillationRamp` or `AdaptiveRamp`, or `None` for no
            distillation from the average. A schedule needs an `EMATeacher`.
        temperature: T of the distillation, between 1e-6 and 1e6. Defaults to
            `2.0`.
        scale_distillation: Whether KD is multiplied by T². Defaults to
            `True`.
        head: Name of the Dense layer that makes the logits, for attribution
            in models where it cannot be found. Defaults to `None`.
        seed: Integer seed of the attacks' random starts. Defaults to `0`.
        check_every: After how many steps the host learns of wrong data and
            of NaN, which each step looks for. Defaults to `100`.
        keep_recovery_copy: Whether the device keeps the weights with which
            the epoch began, to go back to after a NaN. Defaults to `True`.
        attack_dtype: `"bfloat16"` to attack a copy of the student in bfloat16
            in training; all else stays as it is. Defaults to `None`.
        **kwargs: `name`, as for every Keras model.

    Raises:
        TypeError: If the classifier is no model, an attack is no attack or a
            schedule is none.
        ValueError: If the classifier does not return logits (batch, K), or an
            argument is out of range.

    Example:

    ```python
    classifier = kw.models.PreActResNet18(num_classes=10)
    model = kw.WakeModel(
        classifier,
        attack=kw.attacks.PGD(steps=10),
        schedule=kw.schedules.DistillationRamp(100, 110),
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    model.fit(train, epochs=200, callbacks=[kw.EMATeacher()])
    model.robust_classifier.save("robust.keras")
    ```
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: Attack | None,
        objective: Any = "at",
        eval_attack: Attack | None = None,
        schedule: Schedule | None = None,
        temperature: float = 2.0,
        scale_distillation: bool = True,
        head: Any = None,
        seed: int = 0,
        check_every: int = 100,
        keep_recovery_copy: bool = True,
        attack_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = check_classifier(classifier)
        # The policy has Keras scale the loss for float16.
        half = numerics.computes_in_float16(classifier)
        policy = "mixed_float16" if half else "float32"
        super().__init__(dtype=policy, autocast=False, **kwargs)
        self.num_classes = num_classes
        self.objective = objectives.get(objective)
        self.attack, self.eval_attack = check_attacks(
            attack, eval_attack, self.objective
        )
        self.schedule = fit_checks.check_schedule(schedule)
        self.temperature = check_temperature(temperature)
        self.scale_distillation = validate.boolean(
            scale_distillation=scale_distillation
        )
        self.seed = validate.seed(seed=seed)
        # State cannot be added to a model once it is built. So all of it is
        # made here, and idle until a callback switches it on.
        self._bounds = self.eval_attack.bounds
        self.guard = BatchGuard(classifier, num_classes, self._bounds)
        self.input_faults = self.guard.faults
        self.input_guard = InputGuard(self, check_every, keep_recovery_copy)
        self.switches = Switches()
        self.session: FitSession | None = None
        self._phase = "train"
        self._label_spec: Any = None
        self._compiled_for: dict[str, Any] = {}
        self.classifier = classifier
        self.teacher = teacher_copy.copy_of(classifier, self._bounds)
        self.attack_dtype = attack_dtype
        self._head_name = getattr(head, "name", head)
        self.head, self.teacher_head, self._why_no_head = find_heads(
            classifier, self.teacher, head, num_classes
        )
        # Compiled steps see changes of variables, and backups hold them.
        # Callbacks set the first two; whoever averages counts the third.
        self.kd_weight = self._scalar("kd_weight", "float32")
        self.teacher_averaging = self._scalar("teacher_averaging", "float32")
        self.teacher_updates = self._scalar("teacher_updates", "int32")
        self.train_steps = self._scalar("train_steps", "int32")
        self._make_steps()
        self.built = True

    def _make_steps(self) -> None:
        """Makes both steps and their metrics."""
        student = NetworkMetrics(self.classifier, self.head, self.num_classes)
        teacher = NetworkMetrics(
            self.teacher, self.teacher_head, self.num_classes, "teacher_"
        )
        training = TrainingStep(
            guard=self.guard,
            student=self.classifier,
            teacher=self.teacher,
            accuracies={
                "clean": student.accuracy,
                "adversarial": student.robust_accuracy,
            },
            objective=self.objective,
            attack=self.attack,
            reduced=copy_in(self.attack_dtype, self.classifier, self._bounds),
            temperature=self.temperature,
            scale_distillation=self.scale_distillation,
            seed=self.seed,
            kd_weight=self.kd_weight,
            teacher_averaging=self.teacher_averaging,
            teacher_updates=self.teacher_updates,
            train_steps=self.train_steps,
            switches=self.switches,
        )
        evaluation = EvaluationStep(
            training, student, teacher, self.eval_attack
        )
        self.set_steps(training, evaluation)
        if self.head is not None:
            self.attribution = student.attribution
            self.teacher_attribution = teacher.attribution

    def _scalar(self, name: str, dtype: str) -> keras.Variable:
        return self.add_weight(
            (), "zeros", dtype=dtype, trainable=False, name=name
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses new values for what a compiled step has taken over."""
        if name in _SETTINGS and getattr(self, "built", False):
            raise AttributeError(
                f"`{name}` of a `WakeModel` cannot be set: a compiled step "
                "would go on with the old value. Make a new `WakeModel`. "
                f"Received: {name}={value!r}."
            )
        super().__setattr__(name, value)

    @property
    def robust_classifier(self) -> keras.Model:
        """What the algorithm returns: the teacher in use, else the student."""
        return self.teacher if self.teacher_in_use else self.classifier

    def enable_teacher(self, averager: Any) -> None:
        """Registers what averages the student: `Switches.set_averager`."""
        self.switches.set_averager(averager)
        teacher_copy.check_same_function(
            self.classifier, self.teacher, self._bounds
        )

    def enable_pretrained(self, teacher: Any) -> None:
        """Registers a pretrained teacher, see `Switches.add_pretrained`."""
        self.switches.add_pretrained(teacher, self.num_classes, self.schedule)

    def enable_attribution(self) -> None:
        """Makes the evaluation accumulate attribution vectors."""
        if self.head is None:
            raise ValueError(
                f"{self._why_no_head} For the validation pass, name it here: "
                "`WakeModel(..., head='layer name')`."
            )
        self.switches.set_attribution(True)

    @property
    def teacher_in_use(self) -> bool:
        """Whether the teacher has ever been averaged, or is about to be."""
        if self.switches.distils:
            return True
        self.sync_variables()
        return int(backend.to_numpy(self.teacher_updates)) > 0

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's logits (batch, K); of a dictionary, one for each."""
        if not isinstance(inputs, dict):
            return self.classifier(inputs, training=training)
        return {
            name: self.classifier(images, training=training)
            for name, images in inputs.items()
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Objective, distillation, regularisers. Also updates the metrics."""
        return self.training_step.total_loss(
            x, y, y_pred, sample_weight, self.losses
        )

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Accuracy of the training batch, on the images that were trained."""
        if not isinstance(y_pred, dict):
            # Keras builds the compiled metrics from symbolic tensors.
            return super().compute_metrics(x, y, y_pred, sample_weight)
        self.training_step.update_accuracy(y, y_pred)
        return {}

    @property
    def metrics(self) -> list[Any]:
        """The metrics of what is running: training or evaluation."""
        if self._phase == "train":
            return [*self.training_step.metrics, self.input_faults]
        compiled = keras_compat.compiled_metrics(self)
        return [*self.evaluation_step.metrics(compiled), self.input_faults]

    @property
    def metrics_names(self) -> list[str]:
        """Names of the metrics of the last training or evaluation."""
        return [m.name for m in self.metrics if m is not self.input_faults]

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
            jit_compile: `True`, `False` or `"auto"`: XLA on JAX, and on
                TensorFlow on GPU and TPU, with several replicas for the attack
                alone; nothing on PyTorch, where `True` traces the network for
                the attack. Defaults to `"auto"`.
            **kwargs: As in Keras.

        Raises:
            ValueError: If a loss is given, or if the optimizer averages the
                weights (`use_ema`) and the objective is `AWP`.
        """
        fit_checks.check_no_loss(loss, kwargs.get("loss_weights"))
        self.objective.check_optimizer(optimizer)
        self._jit_compile_given = jit_compile
        jit_compile, jit_attack = self.choose_jit(jit_compile)
        self.training_step.prepare_attack(jit_attack)
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
            optimizer = keras_compat.of_any_backend(config["optimizer"])
            config["optimizer"] = optimizer
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as it was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains the student, as `keras.Model.fit`.

        Raises:
            TypeError, ValueError: For data that cannot be right, such as
                images outside the bounds; for a schedule without a teacher.
            FloatingPointError: If the loss or the weights become NaN or
                infinite. All weights go back to the start of the epoch.
        """
        given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        self._check(given)
        if self.compiled:  # Else Keras refuses to train.
            fit_checks.check_optimizer(self.optimizer, self.trainable_variables)
        callbacks = prepared_callbacks(given.get("callbacks"), self)
        session = FitSession(self, given, callbacks)
        # What callbacks of an earlier `fit` have switched on may still be on.
        self.switches.reset()
        self._phase = "train"
        self._label_spec = fit_checks.label_spec(given.get("x"), given.get("y"))
        shard_arrays(self, given, training=True)
        fit_checks.set_shuffle(given)
        given["callbacks"] = callbacks
        self.session = session
        try:
            with session.running() as first_epoch:
                given["initial_epoch"] = first_epoch
                return super().fit(**given)
        finally:
            self.session = None
            self.input_guard.forget("train")
            self.switches.end_fit()

    def _check(self, given: dict[str, Any]) -> None:
        """Checks the classifier, and the data among the arguments."""
        self.training_step.bring_copies_up_to_date()
        fit_checks.check(given, self.guard)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Clean and robust accuracy, as `keras.Model.evaluate`."""
        self.input_guard.check("train")  # Keras resets its counts now.
        if keras_compat.is_validation_of_fit(kwargs):
            if self.switches.averager is not None:
                self.switches.averager.bring_up_to_date()
            return self._evaluate(kwargs)
        method = super().evaluate
        given = inspect.signature(method).bind(*args, **kwargs).arguments
        self._check(given)
        shard_arrays(self, given, training=False)
        given["callbacks"] = prepared_callbacks(given.get("callbacks"), self)
        with self._metrics_of_epoch_kept():
            return self._evaluate(given)

    def _metrics_of_epoch_kept(self) -> AbstractContextManager:
        """Lets a callback evaluate within an epoch, whose metrics go on."""
        return fit_checks.metrics_kept(self) if self.session else nullcontext()

    def _evaluate(self, given: dict[str, Any]) -> Any:
        """`keras.Model.evaluate`, with the metrics of evaluation."""
        self._label_spec = fit_checks.label_spec(given.get("x"), given.get("y"))
        phase, attribution = self._phase, self.switches.attribution
        self._phase = "test"
        try:
            return super().evaluate(**given)
        finally:
            self.sync_variables()
            self._phase = phase
            self.input_guard.forget("test")
            self.switches.set_attribution(attribution)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Logits of the student, as `keras.Model.predict`."""
        given = inspect.signature(super().predict).bind(*args, **kwargs)
        x, steps = given.arguments["x"], given.arguments.get("steps")
        fit_checks.check_images(x, self.guard.image_shape, steps)
        # During an epoch, JAX has the weights in the state of its step. Ctrl-C
        # or a callback may call this then.
        self.sync_variables()
        try:
            return super().predict(*args, **kwargs)
        finally:
            self.sync_variables()

    def predict_on_batch(self, x: Any) -> Any:
        """Logits of one batch, as `keras.Model.predict_on_batch`."""
        fit_checks.check_images(x, self.guard.image_shape)
        return super().predict_on_batch(x)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """One step on one batch, as `keras.Model.train_on_batch`.

        Unlike `fit`, it does not restore the weights after a loss of NaN.
        """
        logs = super().train_on_batch(
            **self._of_batch(super().train_on_batch, args, kwargs)
        )
        self.input_guard.check_batch(training=True)
        return logs

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Metrics of a single batch, as `keras.Model.test_on_batch`."""
        given = self._of_batch(super().test_on_batch, args, kwargs)
        phase = self._phase
        with self._metrics_of_epoch_kept():
            self._phase = "test"
            try:
                logs = super().test_on_batch(**given)
                self.input_guard.check_batch(training=False)
            finally:
                self._phase = phase
        return logs

    def _of_batch(self, method: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """The arguments of a method of one batch by name, checked."""
        given = inspect.signature(method).bind(*args, **kwargs).arguments
        fit_checks.check(given, self.guard)
        self._label_spec = fit_checks.label_spec(None, given["y"])
        return given

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the training step, again if its callbacks changed."""
        self.switches.check_average(self.schedule, self.teacher_in_use)
        switched_on = self.switches.averager, self.switches.pretrained
        setting = (switched_on, self._label_spec, self._leaves_teacher_out)
        force = self._changed("train", setting) or force
        return super().make_train_function(force=force)

    def make_test_function(self, force: bool = False) -> Any:
        """Compiles the test step, again if what it measures changed."""
        # Read here, because a step that is being compiled cannot.
        teacher = self.evaluation_step.measure_teacher(self.teacher_in_use)
        setting = (teacher, self.switches.attribution, self._label_spec)
        force = self._changed("test", setting) or force
        return super().make_test_function(force=force)

    def _changed(self, function: str, setting: Any) -> bool:
        changed = self._compiled_for.get(function, setting) != setting
        self._compiled_for[function] = setting
        return changed

    @property
    def losses(self) -> list[Any]:
        """The student's regularisers; the teacher's take no part."""
        return keras_compat.losses_in_scope(self) or self.classifier.losses

    @property
    def _leaves_teacher_out(self) -> bool:
        """Whether a teacher that is idle in `fit` need not enter the step."""
        idle = self.session is not None and not self.switches.distils
        return self.steps_take_variables and idle and self._phase == "train"

    @property
    def trainable_variables(self) -> list[Any]:
        """The student's; the teacher's are averaged, not trained."""
        return self.classifier.trainable_variables if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Any]:
        """All others, those of the teacher and of pretrained teachers too."""
        # A step of JAX must be given all that it reads.
        others = {id(v) for v in self.trainable_variables}
        if self._leaves_teacher_out:
            others.update(id(v) for v in self.teacher.variables)
        own = [v for v in self.variables if id(v) not in others]
        return own + [
            v for t in self.switches.pretrained for v in t.teacher.variables
        ]

    @property
    def trainable_weights(self) -> list[Any]:
        """The same: all that is trained is a weight."""
        return self.trainable_variables

    @property
    def non_trainable_weights(self) -> list[Any]:
        """All other weights, the teacher's among them."""
        trained = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trained]

    @property
    def layers(self) -> list[Any]:
        """The student and the teacher; the heads are layers of theirs."""
        return [self.classifier, self.teacher]

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the classifier is built already."""

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> Any:
        """Saves the model, as `keras.Model.save`.

        A local file is written whole or not at all, unless Keras asks first.
        """
        self.input_guard.check("train")  # A file never gets weights of NaN.
        with model_files.atomic_file(filepath, ".keras", overwrite) as path:
            return super().save(path, overwrite=overwrite, **kwargs)

    def save_weights(
        self, filepath: Any, overwrite: bool = True, **kwargs: Any
    ) -> Any:
        """Saves the weights, as `keras.Model.save_weights`; whole, as `save`.

        Raises:
            ValueError: If the name does not end in `.weights.h5`, or with
                `max_shard_size` in `.weights.json`.
        """
        self.input_guard.check("train")
        sharded = kwargs.get("max_shard_size") is not None
        ending = ".weights.json" if sharded else ".weights.h5"
        with model_files.atomic_file(filepath, ending, overwrite) as path:
            return super().save_weights(path, overwrite=overwrite, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Exports `robust_classifier`, as `keras.Model.export`."""
        return self.robust_classifier.export(filepath, *args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Also saves the random states, of dropout say, which Keras forgets."""
        super().save_own_variables(store)
        model_files.save_random_states(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` has saved."""
        super().load_own_variables(model_files.load_random_states(self, store))

    def get_config(self) -> Config:
        """The arguments of the constructor, serialised."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            **{name: serialize(getattr(self, name)) for name in _OBJECTS},
            **{name: getattr(self, name) for name in _VALUES},
            "head": self._head_name,
            "check_every": self.input_guard.check_every,
            "keep_recovery_copy": self.input_guard.keep_recovery_copy,
        }

    @classmethod
    def from_config(cls, config: Config) -> "WakeModel":
        """Makes the model again from `get_config()`, without its weights."""
        deserialize = keras.saving.deserialize_keras_object
        objects = {name: deserialize(config[name]) for name in _OBJECTS}
        return cls(**{**config, **objects})
