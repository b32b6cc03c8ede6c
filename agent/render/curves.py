"""Training curves as inline SVG: no script, no font, no address, readable in both light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 12, 24, 26
_LEGEND = 140
"""Pixels from one name to the next."""
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


def plot(title: str, x_label: str, series: Sequence[Series]) -> str:
    """Return an `<svg>` element, or an empty string where there is nothing to draw.

    Args:
        title: What a screen reader says.
        x_label: Name of the x axis.
        series: Lines; all share both axes.
    """
    shown = [line for line in series if line.points]
    if not shown:
        return ""
    xs = [x for line in shown for x, _ in line.points]
    ys = [y for line in shown for _, y in line.points]
    scale = _Scale(min(xs), max(xs), min(ys), max(ys))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        _axes(scale, x_label),
        *(_line(scale, line) for line in shown),
        *(_legend(index, line) for index, line in enumerate(shown)),
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


def _axes(scale: _Scale, x_label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    labels = [
        f'<text x="{_LEFT - 6}" y="{scale.y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in sorted({scale.y_low, scale.y_high})
    ]
    labels += [
        f'<text x="{scale.x(value):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{value:g}</text>'
        for value, anchor in ((scale.x_low, "start"), (scale.x_high, "end"))
    ]
    middle = (_LEFT + right) / 2
    return (
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>{"".join(labels)}'
        f'<text x="{middle:.0f}" y="{bottom + 16}" text-anchor="middle">{escape(x_label)}</text>'
    )


def _line(scale: _Scale, line: Series) -> str:
    points = thinned(line.points)
    path = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.5" fill="{line.colour}"/>' for x, y in points
    )
    return f'<polyline fill="none" stroke="{line.colour}" points="{path}"/>{dots if line.is_dotted else ""}'


def _legend(index: int, line: Series) -> str:
    # Above the plot, where no line runs; as an attribute, since a page served under a strict policy allows no style.
    x = _LEFT + index * _LEGEND
    return f'<text x="{x}" y="{_TOP - 10}" fill="{line.colour}">{escape(line.name)}</text>'


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most `most` points, evenly taken, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(index * step)] for index in range(most)]
