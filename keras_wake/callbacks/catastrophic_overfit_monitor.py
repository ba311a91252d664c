"""Notices the collapse of single-step adversarial training."""

import warnings
from collections.abc import Callable
from collections.abc import Iterator

import keras

from keras_wake import backend
from keras_wake.attacks import FGSM
from keras_wake.attacks import PGD
from keras_wake.backend.numerics import hits
from keras_wake.callbacks._base import first_images
from keras_wake.callbacks._base import WakeCallback
from keras_wake.checkpoint import snapshot
from keras_wake.data.arrays import one_hot_labels
from keras_wake.data.sharding import data_of_all
from keras_wake.data.sharding import whole_batches
from keras_wake.utils import validate
from keras_wake.utils.types import Array
from keras_wake.utils.types import Dataset
from keras_wake.utils.types import Json
from keras_wake.utils.types import Logs
from keras_wake.utils.types import State
from keras_wake.utils.types import Tensor


class CatastrophicOverfitMonitor(WakeCallback):
    """Compares multi-step with single-step robust accuracy as training runs.

    In catastrophic overfitting the network learns to fool a single-step
    attack, and accuracy under a multi-step attack falls to near 0, often
    within an epoch. On a small fixed part of the training data the callback
    measures the student's accuracy under both. It reports a collapse when

        single − multi ≥ gap   and   multi ≤ ratio · single.

    The two accuracies of a sound network differ by a few points only. The
    logs get `single_step_accuracy` and `multi_step_accuracy`. `history` holds
    a dictionary for each check, and `collapsed` is `True` after a collapse.

    Args:
        data: Pair of arrays (x, y), or anything that yields such batches.
            Defaults to `None`: the training data of `fit`, in several
            processes of JAX or PyTorch arrays or data of
            `keras_wake.datasets`.
        samples: How many images, the first ones. Defaults to `256`.
        every: `"epoch"`, or the number of steps. Defaults to `"epoch"`.
        action: On a collapse `"warn"`, `"stop"` training, or `"rollback"`:
            go back to student, teacher and optimiser as they were at the
            last good check, then stop. Defaults to `"warn"`.
        gap: Least difference of the two accuracies. Defaults to `0.25`.
        ratio: Largest share of the single-step accuracy that is left under
            the multi-step attack. Defaults to `0.5`.
        single_step: Attack in one step. Defaults to `None`: plain FGSM in
            the threat model of the training attack.
        multi_step: Stronger attack. Defaults to `None`: PGD with 10 steps
            in the same threat model.

    Raises:
        ValueError: For an argument out of range; in `fit`, for empty data.

    Example:

    ```python
    monitor = kw.callbacks.CatastrophicOverfitMonitor(
        every=50, action="rollback"
    )
    model.fit(train, epochs=30, callbacks=[monitor])
    ```
    """

    def __init__(
        self,
        data: Dataset = None,
        samples: int = 256,
        every: str | int = "epoch",
        action: str = "warn",
        gap: float = 0.25,
        ratio: float = 0.5,
        single_step: Callable[..., Tensor] | None = None,
        multi_step: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.samples = validate.integer(1, samples=samples)
        if every != "epoch":
            hint = 'Or pass `every="epoch"`.'
            every = validate.integer(1, hint, every=every)
        self.every = every
        # The number of steps between checks; None stands for an epoch.
        self._interval = None if isinstance(every, str) else every
        actions = ("warn", "stop", "rollback")
        self.action = validate.one_of(actions, action=action)
        self.gap = validate.positive(gap=validate.in_range(0, 1, gap=gap))
        self.ratio = validate.in_range(0, 1, ratio=ratio)
        attacks = {"single_step": single_step, "multi_step": multi_step}
        for name, attack in attacks.items():
            # A function of the same arguments is allowed.
            no_function = isinstance(attack, (type, keras.layers.Layer))
            wrong = no_function or not callable(attack)
            if wrong and attack is not None:
                raise TypeError(
                    f"`{name}` must be an attack such as "
                    "`keras_wake.attacks.FGSM()` or None. Received: "
                    f"{name}={attack!r}."
                )
        self.single_step, self.multi_step = single_step, multi_step
        if self._interval is None:
            # Where a callback has a hook for batches, Keras waits for each.
            self.__dict__["on_train_batch_end"] = super().on_train_batch_end
        self._forget()

    def _forget(self) -> None:
        self.history: list[dict[str, Json]] = []
        self.collapsed = False
        self._good: list[Array] | None = None
        self._epoch = 0
        self._step = 0
        self._next_check = 0

    def set_model(self, model: keras.Model) -> None:
        """Takes the threat model of the training attack."""
        super().set_model(model)
        attack = model.attack or model.eval_attack
        self._single = self.single_step or FGSM(
            attack.norm, attack.epsilon, bounds=attack.bounds
        )
        self._multi = self.multi_step or PGD.for_evaluation(attack, steps=10)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Takes the fixed images and starts a new history."""
        self._forget()
        data = self.data
        if data is None:
            x, y = self.model.session.data
            data = x if y is None else (x, y)
            if isinstance(data, Iterator):
                raise ValueError(
                    "`CatastrophicOverfitMonitor()` takes the first images of "
                    f"`fit`. It cannot if this {type(data).__name__} gives "
                    "each only once. Pass "
                    "`CatastrophicOverfitMonitor(data=(x, y))`."
                )
            data = data_of_all(self.model, data, "CatastrophicOverfitMonitor()")
        data = whole_batches(data)
        self._x, self._y = first_images(data, self.samples)
        self._next_check = self._interval or 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch + 1
        self._epoch_start = self._step
        self._steps_before = int(backend.to_numpy(self.model.train_steps))

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Checks every n steps, also with `steps_per_execution` above 1."""
        self._step = self._epoch_start + batch + 1
        if self._interval and self._step >= self._next_check:
            self._next_check = self._step + self._interval
            self._check()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Checks once an epoch, and writes the last check into the logs."""
        if self._interval is None:
            steps = int(backend.to_numpy(self.model.train_steps))
            self._step = self._epoch_start + steps - self._steps_before
            self._check()
        if logs is not None and self.history:
            for name in ("single_step_accuracy", "multi_step_accuracy"):
                logs[name] = self.history[-1][name]

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Warns if the interval was longer than the run."""
        if self._interval and self._step and not self.history:
            warnings.warn(
                "`CatastrophicOverfitMonitor` has made no check: `fit` ended "
                f"after {self._step} steps, and every={self._interval}. Pass "
                'a smaller number, or `every="epoch"`.',
                stacklevel=2,
            )

    def get_state(self) -> State:
        """What `BackupAndRestore` keeps, with the last good weights."""
        return {
            "history": self.history,
            "collapsed": self.collapsed,
            "step": self._step,
            "next_check": self._next_check,
            "good": None if self.collapsed else self._good,
        }

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` has returned."""
        self.history = list(state["history"])
        self.collapsed = state["collapsed"]
        self._step = state["step"]
        self._next_check = state["next_check"]
        self._good = state["good"]
        if self.collapsed and self.action != "warn":
            self.model.stop_training = True

    def _check(self) -> None:
        if self.collapsed and self.action != "warn":
            return
        self.model.sync_variables()
        single = self._accuracy(self._single)
        multi = self._accuracy(self._multi)
        bad = single - multi >= self.gap and multi <= self.ratio * single
        entry = {
            "epoch": self._epoch,
            "step": self._step,
            "single_step_accuracy": single,
            "multi_step_accuracy": multi,
            "collapsed": bad,
        }
        self.history.append(entry)
        if bad and not self.collapsed:
            self.collapsed = True
            self._act(single, multi)
        elif not bad and self.action == "rollback":
            self._good = snapshot.take(self.model)

    def _act(self, single: float, multi: float) -> None:
        """Reports the first collapse, and does what the user wants then."""
        message = (
            f"Catastrophic overfitting in epoch {self._epoch}, step "
            f"{self._step}: accuracy on {len(self._x)} training images is "
            f"{single:.1%} under one step and {multi:.1%} under PGD."
        )
        if self.action == "rollback":
            if self._good is None:
                message += " No check before was good, so the weights stay."
            else:
                snapshot.put_back(self.model, self._good)
                good = [e for e in self.history if not e["collapsed"]][-1]
                message += (
                    f" The weights are back to those of epoch {good['epoch']}, "
                    f"step {good['step']}."
                )
        if self.action != "warn":
            self.model.stop_training = True
            message += " Training stops."
        warnings.warn(
            message + " A smaller epsilon, a smaller step size or a "
            "multi-step attack avoids it.",
            stacklevel=2,
        )

    def _accuracy(self, attack: Callable[..., Tensor]) -> float:
        adversarial = attack(self.model.classifier, self._x, self._y, seed=0)
        logits = self.model.classifier(adversarial, training=False)
        labels = one_hot_labels(self._y, logits.shape[-1])
        right = int(backend.to_numpy(hits(labels, logits)).sum())
        # Batch norm may differ between processes, and all must decide alike:
        # so the number of the chief counts.
        return float(self.model.of_all_processes(right)[0]) / len(self._y)
