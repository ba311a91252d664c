"""What all example scripts share: flags, training, the report of a run.

A script names its defaults and calls `main`. A run folder then holds
`record.json` (settings, commit, every epoch, final table), `history.csv`,
checkpoints, figures and two networks: `robust.keras` of the last epoch, and
`best.keras` of the best one, which early stopping would have kept. All of it is
written during the run, so that a killed run continues with `--resume`.
"""

import os
import shlex
import sys
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves oneDNN off on CPUs without AVX-512, where the gradients of
# convolutions still gain from it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# JAX keeps its compiled steps there, as the first one takes long to compile.
# JAX_ENABLE_COMPILATION_CACHE=0 switches it off.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
        "keras-wake",
        "jax",
    ),
)

from runner import flags
from runner import processes
from runner.record import check_folder
from runner.record import Record


def main(description: str, defaults: dict[str, Any], argv: Any = None) -> None:
    """Parses the flags, trains or continues, and reports.

    Cheap checks come first: flags, then the run folder, then the parts of the
    model, then the data.
    """
    parser, args = flags.parse_args(description, defaults, argv)
    try:
        # Other processes of a job may find the folder that the chief made.
        if processes.is_chief():
            check_folder(args.run_dir, args.resume)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    # These import the framework, which takes seconds.
    from runner import devices
    from runner import report
    from runner import training
    from runner.parts import Parts

    try:
        started = devices.start(args.threads)
        parts = Parts(args)
        record = Record(
            args.run_dir, flags.settings_of(args), devices.describe()
        )
        if args.resume:
            record.load()
        splits = training.load_data(args)
        parts.check_data(splits)
        with devices.scope(started) as replicas:
            model = training.build(args, parts, splits)
            if args.resume:
                finished = training.backup(args.run_dir).restore(model)
                record.keep_epochs(finished)
        record.write()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    if model.is_chief:
        print(
            f"{args.method} on {args.dataset}: {splits.train_size} training, "
            f"{splits.validation_size} validation and {splits.test_size} test "
            f"images; {model.classifier.count_params():,} parameters; "
            f"{replicas} replica{'s' * (replicas > 1)}; writing to "
            f"{args.run_dir}",
            flush=True,
        )
    given = sys.argv[1:] if argv is None else list(argv)
    again = [sys.argv[0], *given, *["--resume"] * (not args.resume)]
    try:
        attribution = training.train(args, parts, model, splits, record)
        saved = report.report(
            args, parts, model, splits, record, attribution.history
        )
    except KeyboardInterrupt:
        print(
            f"\nInterrupted after {len(record.content['epochs'])} of "
            f"{args.epochs} epochs. Continue with:\n"
            f"python {shlex.join(again)}",
            file=sys.stderr,
        )
        sys.exit(130)
    if not saved:
        print(
            "\nNot everything could be written, see above. Make room and "
            f"complete it with:\npython {shlex.join(again)}",
            file=sys.stderr,
        )
        sys.exit(1)
    if model.is_chief:
        print(
            f"\nThe run is in {args.run_dir}: robust.keras is the network of "
            "the last epoch, best.keras that of the best one."
        )
