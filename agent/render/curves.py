"""Curves as inline SVG: no script, no font, no address, readable on a phone, in both light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

Point = tuple[float, float]

_WIDTH, _HEIGHT = 400, 200
"""As wide as a phone, so that its letters are not made smaller there."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 24, 26
_LEGEND = 84
"""Pixels from one name to the next."""
COLOURS = ("#3b82c4", "#d0661f", "#2f9e57", "#9a62c7")
"""Of lines; as many as have room for their names."""
_MOST_POINTS = 400
"""More than two points per three pixels show nothing more."""


@dataclass(frozen=True)
class Series:
    """One line of a plot: a name, a colour, points (x ascending)."""

    name: str
    colour: str
    points: Sequence[Point]
    is_dotted: bool = False
    """Marks each point: for values measured now and then."""


Edge = tuple[float, float, float]
"""x, lower and upper edge of a band."""


def plot(title: str, x_label: str, series: Sequence[Series], band: Sequence[Edge] = ()) -> str:
    """Return an `<svg>` element, or an empty string where there is nothing to draw.

    Args:
        title: What a screen reader says.
        x_label: Name of the x axis.
        series: Lines; all share both axes.
        band: Noise around the first of them, x ascending.
    """
    shown = [line for line in series if line.points]
    if not shown:
        return ""
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points] + [y for _, *edges in band for y in edges]
    scale = _Scale(min(xs), max(xs), min(ys), max(ys))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        _axes(scale, x_label),
        _band(scale, band, shown[0].colour),
        *(_line(scale, line) for line in shown),
        _legend([(line.name, line.colour) for line in shown]),
        "</svg>",
    ]
    return "".join(parts)


@dataclass(frozen=True)
class _Scale:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Return a pixel column."""
        span = (self.x_high - self.x_low) or 1.0
        return _LEFT + (value - self.x_low) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return a pixel row; larger values are higher up."""
        span = (self.y_high - self.y_low) or 1.0
        return _HEIGHT - _BOTTOM - (value - self.y_low) / span * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scale: _Scale, x_label: str, x_ticks: Sequence[tuple[float, str]] = ()) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    middle = (scale.y_low + scale.y_high) / 2
    labels = [
        f'<text x="{_LEFT - 6}" y="{scale.y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in sorted({scale.y_low, middle, scale.y_high})
    ]
    ends = [(scale.x_low, f"{scale.x_low:g}", "start"), (scale.x_high, f"{scale.x_high:g}", "end")]
    labels += [
        f'<text x="{scale.x(value):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{escape(name)}</text>'
        for value, name, anchor in ([(at, name, "middle") for at, name in x_ticks] or ends)
    ]
    if x_label:
        labels.append(
            f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 16}" text-anchor="middle">{escape(x_label)}</text>'
        )
    return f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>{"".join(labels)}'


def _band(scale: _Scale, band: Sequence[Edge], colour: str) -> str:
    if not band:
        return ""
    edges = [(x, high) for x, _, high in thinned(band, _MOST_POINTS // 4)]
    edges += [(x, low) for x, low, _ in reversed(thinned(band, _MOST_POINTS // 4))]
    path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in edges)
    return f'<polygon fill="{colour}" fill-opacity="0.18" points="{path}"/>'


def _line(scale: _Scale, line: Series) -> str:
    points = thinned(line.points)
    path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.5" fill="{line.colour}"/>' for x, y in points
    )
    drawn = f'<polyline fill="none" stroke="{line.colour}" stroke-width="1.5" points="{path}"/>'
    return f"{drawn}{dots if line.is_dotted else ''}"


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return names beside their colours, above the plot, where no line runs."""
    # Colours as attributes, since a page served under a strict policy allows no style.
    drawn, x = [], float(_LEFT)
    room = (_WIDTH - _LEFT) / max(1, len(entries))
    for name, colour in entries:
        drawn.append(f'<rect x="{x:.0f}" y="{_TOP - 19}" width="10" height="10" rx="2" fill="{colour}"/>')
        drawn.append(f'<text x="{x + 14:.0f}" y="{_TOP - 10}">{escape(name)}</text>')
        x += min(room, max(_LEGEND, 24.0 + 6.2 * len(name)))
    return "".join(drawn)


@dataclass(frozen=True)
class Estimate:
    """A score with its interval."""

    name: str
    """Of the run."""
    value: float
    low: float | None
    high: float | None
    kind: str
    """What the colour says."""


def estimates(title: str, rows: Sequence[Estimate], colours: Mapping[str, str], levels: Mapping[str, float]) -> str:
    """Return scores side by side, each with the bar of its interval, as an `<svg>` element; empty where there is none.

    Args:
        title: What a screen reader says.
        rows: In their order.
        colours: Colour of each kind; those that occur are in the legend.
        levels: Lines across the plot, such as what the gate asks: name -> value.
    """
    if not rows:
        return ""
    every = [v for row in rows for v in (row.value, row.low, row.high) if v is not None] + list(levels.values())
    slack = 0.06 * ((max(every) - min(every)) or 1.0)
    scale = _Scale(-0.6, len(rows) - 0.4, min(every) - slack, max(every) + slack)
    step = -(-len(rows) // _MOST_NAMES)
    ticks = [(float(index), row.name) for index, row in enumerate(rows) if index % step == 0]
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        _axes(scale, "", ticks),
    ]
    for name, value in levels.items():
        y = scale.y(value)
        parts.append(f'<path class="level" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{y - 4:.1f}" text-anchor="end">{escape(name)}</text>')
    for index, row in enumerate(rows):
        x, colour = scale.x(index), colours[row.kind]
        if row.low is not None and row.high is not None:
            span = f"M{x:.1f} {scale.y(row.low):.1f}V{scale.y(row.high):.1f}"
            parts.append(f'<path d="{span}" stroke="{colour}" stroke-width="2.5" stroke-linecap="round"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{scale.y(row.value):.1f}" r="4" fill="{colour}"/>')
    shown = [kind for kind in colours if any(row.kind == kind for row in rows)]
    return "".join([*parts, _legend([(kind, colours[kind]) for kind in shown]), "</svg>"])


_MOST_NAMES = 12
"""Names of runs along the axis; of more, evenly some."""


_Place = TypeVar("_Place")


def thinned(points: Sequence[_Place], most: int = _MOST_POINTS) -> list[_Place]:
    """Return at most `most` points, evenly taken, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(index * step)] for index in range(most)]
