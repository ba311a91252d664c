"""Columns of text for a terminal."""


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Columns of one width; those of numbers are aligned to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1] in "-0123456789" for cell in c[1:]) for c in columns]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [header, *rows]
    ]


def short(name: str, longest: int = 20) -> str:
    """The name, cut to `longest` characters with an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def percent(share: float | None) -> str:
    """A share in per cent, a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"
