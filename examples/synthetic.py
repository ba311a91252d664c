"""Shows why strong adversaries cost common features, in a synthetic model.

python examples/synthetic.py

Finds the weights of the synthetic model in three ways (closed form, Monte
Carlo, training with WakeModel), prints them, and draws the weight of the
common features over the radius of the adversary.
"""

import argparse
import pathlib

from runner.parsing import Parser

import keras_wake as kw

HEADER = """\
             no label smoothing               label smoothing {beta:g}
 epsilon   closed  Monte Carlo  trained    closed  Monte Carlo  trained"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)

    def add(flag: str, kind: type, default: object, text: str) -> None:
        parser.add_argument(
            flag, type=kind, default=default, help=f"{text} ({default})"
        )

    add("--mu", float, 1.0, "mean of a feature that is present")
    add("--sigma", float, 1.0, "standard deviation of a feature")
    add("--weight-decay", float, 1.0, "factor of half the squared weights")
    add("--label-smoothing", float, 0.1, "beta of the second curve")
    add("--samples", int, 10_000, "samples of each class")
    add("--points", int, 5, "radii at which weights are found")
    add("--seed", int, 0, "seed of the samples")
    add("--output", pathlib.Path, "synthetic.png", "figure to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    model = kw.theory.SyntheticModel(args.mu, args.sigma, args.weight_decay)
    x, y = model.sample(args.samples, seed=args.seed)
    smoothings = (0.0, args.label_smoothing)
    e0, e1 = (model.critical_epsilon(beta) for beta in smoothings)
    print("w2, weight of the common features.")
    print(f"Radius from which on it is 0: {e0:.4f}, with smoothing {e1:.4f}.\n")
    print(HEADER.format(beta=args.label_smoothing))
    sampled, trained = [], []
    for index in range(args.points):
        epsilon = (index + 0.5) / args.points * args.mu / 2
        rows = []
        for beta in smoothings:
            setting = (x, y, epsilon, args.weight_decay, beta)
            rows.append(
                (
                    model.optimal_weights(epsilon, beta)[1],
                    kw.theory.monte_carlo_weights(*setting)[1],
                    kw.theory.trained_weights(*setting)[1],
                )
            )
        sampled.append((epsilon, rows[0][1], rows[1][1]))
        trained.append((epsilon, rows[0][2], rows[1][2]))
        columns = "  ".join("{:8.4f} {:12.4f} {:8.4f}".format(*r) for r in rows)
        print(f"{epsilon:8.4f} {columns}", flush=True)
    kw.visualization.plot_synthetic(
        model,
        args.label_smoothing,
        points={"Monte Carlo": sampled, "trained with WakeModel": trained},
        path=args.output,
    )
    print(f"\nFigure: {args.output}")


if __name__ == "__main__":
    main()
