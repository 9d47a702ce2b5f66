"""Colours and shapes of series; told apart without colour too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ngram_copy.report.labels import natural
from ngram_copy.report.rows import Cell, Training

# After Okabe and Ito's palette for the colour-blind, dark enough for lines on white.
HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#56677a")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
FORBIDDEN, WARNING = "#fbe9e6", "#9b2c1d"
SHADE = "#f0f3f6"


@dataclass(frozen=True)
class Style:
    """How a series is drawn: a colour as #rrggbb, a Vega symbol, and whether that has a dark edge."""

    colour: str
    shape: str
    edge: bool = False


def engine_styles(cells: Sequence[Cell | Training]) -> dict[str, Style]:
    """A hue and a shape for each kind of engine, a shade for each configuration of it; learned ones have an edge."""
    ordered = sorted(cells, key=lambda cell: natural(cell.engine_options))
    learned = {cell.engine for cell in cells if cell.learned}
    return shaded_styles({cell.engine: cell.family for cell in ordered}, learned)


def shaded_styles(groups: Mapping[str, str], edged: Collection[str] = ()) -> dict[str, Style]:
    """A hue and a shape for each group, a shade for each label in it; ``groups`` maps labels to groups.

    Pairs of a hue and a shape repeat only after 36 groups. Labels in ``edged`` have an edge, which their shades leave
    to be seen.
    """
    members: dict[str, list[str]] = {}
    for label, group in groups.items():
        members.setdefault(group, []).append(label)
    size = len(HUES)
    styles = {}
    for index, labels in enumerate(members.values()):
        shape = SHAPES[(index + index // size) % len(SHAPES)]
        for place, label in enumerate(labels):
            darkest = 0.2 if label in edged else 0.45
            colour = _shade(HUES[index % size], place, len(labels), darkest)
            styles[label] = Style(colour, shape, edge=label in edged)
    return styles


def plain_styles(labels: Sequence[str]) -> dict[str, Style]:
    """A colour and a shape for each label; pairs repeat only after 36."""
    size = len(HUES)
    return {
        label: Style(HUES[index % size], SHAPES[(index + index // size) % len(SHAPES)])
        for index, label in enumerate(labels)
    }


def _shade(colour: str, place: int, count: int, darkest: float) -> str:
    """Shades from light to dark around a colour; the colour itself where there is one."""
    if count == 1:
        return colour
    t = place / (count - 1)
    target, weight = (255, 0.5 - t) if t < 0.5 else (0, 2 * darkest * (t - 0.5))
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (target - channel) * weight):02x}" for channel in channels)
