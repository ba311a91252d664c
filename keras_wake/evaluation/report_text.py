"""Reports of an evaluation as tables for a terminal."""

from keras_wake.utils.tables import class_table
from keras_wake.utils.tables import percent
from keras_wake.utils.tables import table
from keras_wake.utils.types import Json


def report_text(report: Json) -> str:
    """The tables of `RobustnessReport.__str__`.

    Args:
        report: What `RobustnessReport.to_dict` returns.
    """
    lines = [
        f"{report['samples']} samples of {len(report['classes'])} classes, "
        f"{report['norm']}, epsilon {report['epsilon']:.4g}, version "
        f"{report['version']!r}, seed {report['seed']}",
        f"clean accuracy {_with_interval(report, 'clean')}, robust accuracy "
        f"{_with_interval(report, 'robust')} ({report['confidence']:.0%} "
        f"interval, {report['interval_method']})",
        *_votes_line(report),
        "",
        *_attack_lines(report),
        "",
        *class_table(report["classes"], "robust_accuracy"),
        *_finding_lines(report),
    ]
    return "\n".join(lines)


def _votes_line(report: Json) -> list[str]:
    votes = report["passes_per_prediction"]
    if votes == 1:
        return []
    return [
        f"outputs are random: right is what most of {votes} passes get right"
    ]


def _finding_lines(report: Json) -> list[str]:
    if not report["findings"]:
        return []
    return [
        *("", "what makes these numbers doubtful"),
        *(f"[{f['code']}] {f['message']}" for f in report["findings"]),
    ]


def _with_interval(report: Json, which: str) -> str:
    low, high = report[f"{which}_interval"]
    return (
        f"{percent(report[f'{which}_accuracy'])} "
        f"[{100 * low:.1f}, {100 * high:.1f}]"
    )


def _attack_lines(report: Json) -> list[str]:
    rows = []
    for attack in report["attacks"]:
        low, high = attack["interval"]
        rows.append(
            [
                attack["name"],
                str(attack["attacked"]),
                str(attack["fell"]),
                percent(attack["accuracy"]),
                f"[{100 * low:.1f}, {100 * high:.1f}]",
                _count(attack["forward_passes"]),
                _count(attack["backward_passes"]),
                f"{attack['seconds']:.1f}",
            ]
        )
    header = [
        *("attack", "attacked", "fell", "accuracy after", "interval"),
        *("forward", "backward", "seconds"),
    ]
    notes = [
        f"{attack['name']}: {attack['note']}"
        for attack in report["attacks"]
        if attack["note"]
    ]
    return table(header, rows) + notes


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def sweep_text(sweep: Json) -> str:
    """The table of `EpsilonSweep.__str__`.

    Args:
        sweep: What `EpsilonSweep.to_dict` returns.
    """
    rows = []
    for point in sweep["points"]:
        low, high = point["interval"]
        rows.append(
            [
                f"{point['epsilon']:.4g}",
                percent(point["accuracy"]),
                f"[{100 * low:.1f}, {100 * high:.1f}]",
            ]
        )
    return "\n".join(
        [
            f"{sweep['samples']} samples, {sweep['norm']}, {sweep['attack']}, "
            f"seed {sweep['seed']}, {sweep['confidence']:.0%} interval "
            f"({sweep['interval_method']})",
            *_votes_line(sweep),
            *table(["epsilon", "accuracy", "interval"], rows),
            *_finding_lines(sweep),
        ]
    )
