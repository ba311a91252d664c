"""The figures of a run. If one fails, the others are still drawn."""

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import Any

import keras_wake as kw
from runner.methods import METHODS
from runner.parts import Parts
from runner.record import Record

# (epoch, network): the class-wise correlation matrix.
Matrices = dict[tuple[str, str], Any]


class Figures:
    """Draws into the folder of a run."""

    def __init__(self, args: argparse.Namespace, splits: Any):
        self.args = args
        self.names = splits.class_names
        self.clean = METHODS[args.method].on_clean_images
        # With regular training, classes share little.
        self.vmax = 0.5 if self.clean else 1.0

    def draw(
        self, name: str, plot: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Draws one figure, or says why not."""
        try:
            plot(*args, path=self.args.run_dir / name, **kwargs)
        # A figure that fails must not end the run.
        except Exception as error:
            if not isinstance(error, OSError):
                traceback.print_exc()
            print(f"{name} could not be drawn: {error}.", file=sys.stderr)

    def whole_run(
        self,
        record: Record,
        parts: Parts,
        matrices: Matrices,
        pictures: tuple[Any, ...],
        report: Any,
    ) -> None:
        """What does not depend on the choice of epochs.

        `matrices` are on the test images, and `pictures` before and after the
        attack.
        """
        plots = kw.visualization
        self.draw(
            "curves.png",
            plots.plot_history,
            record.columns(),
            start_epoch=getattr(parts.ramp, "start_epoch", None),
            end_epoch=getattr(parts.ramp, "end_epoch", None),
        )
        for (epoch, network), matrix in matrices.items():
            self.draw(
                f"correlation_{epoch}_{network}.png",
                plots.plot_correlation_matrix,
                matrix,
                class_names=self.names,
                title=f"{network}, {epoch} epoch, "
                f"CAS {kw.attribution.cas(matrix):.1f}"
                f"{' (clean images)' * self.clean}",
                vmax=self.vmax,
            )
        self.draw(
            "adversarial_examples.png",
            plots.plot_adversarial_examples,
            *pictures,
            class_names=self.names,
        )
        self.draw("classes.png", plots.plot_class_report, report)
        if any(any(pair.examples) for pair in report.pairs[:5]):
            self.draw("shared_pairs.png", plots.plot_shared_pairs, report)

    def epochs(self, record: Record, history: list[dict[str, Any]]) -> None:
        """The student's matrices over the epochs, and best minus last."""
        key = METHODS[self.args.method].best_by
        rows = record.content["epochs"]
        scores = {row["epoch"]: row.get(key) for row in rows}
        matrices = {entry["epoch"]: entry["correlation"] for entry in history}
        epochs = [e for e in matrices if scores.get(e) is not None]
        if not epochs:
            return
        best = max(epochs, key=scores.__getitem__)
        chosen = self._chosen(epochs, best)
        self.draw(
            "correlation_epochs.png",
            kw.visualization.plot_correlation_strip,
            {epoch: matrices[epoch] for epoch in chosen},
            # Robust accuracy is not about clean images.
            None if self.clean else {e: scores[e] for e in chosen},
            class_names=self.names,
            title="clean images" if self.clean else None,
            vmax=self.vmax,
        )
        if best != epochs[-1]:
            self.draw(
                "correlation_difference.png",
                kw.visualization.plot_correlation_difference,
                matrices[best],
                matrices[epochs[-1]],
                class_names=self.names,
                title=f"epoch {best} − epoch {epochs[-1]}",
            )

    def _chosen(self, epochs: list[int], best: int) -> list[int]:
        """The epochs that were asked for, as far as the run has come."""
        wanted = self.args.matrix_epochs or ()
        missing = [epoch for epoch in wanted if epoch not in epochs]
        if missing:
            print(f"The run ended before --matrix-epochs {missing}.")
        kept = [epoch for epoch in wanted if epoch in epochs]
        return kept or chosen_epochs(epochs, best)


def chosen_epochs(epochs: list[int], best: int, count: int = 5) -> list[int]:
    """At most `count` of the epochs: first, best, last, and some between."""
    chosen = {epochs[0], best, epochs[-1]}
    for part in range(1, count):
        if len(chosen) == min(count, len(epochs)):
            break
        chosen.add(epochs[part * (len(epochs) - 1) // count])
    return sorted(chosen)
