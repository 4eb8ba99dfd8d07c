"""Small charts as SVG, made here: no script, no style attribute, and a table beside each for who cannot see it."""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

WIDTH: Final = 240
HEIGHT: Final = 40


def columns(values: Sequence[float | None], *, title: str, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """Return one column for each value, from the left, and a gap for None; the highest value is as high as the chart.

    `title` says what a screen reader reads, and is shown where a pointer rests.
    """
    heights = [value or 0.0 for value in values]
    top = max(heights, default=0.0)
    step = width / max(1, len(heights))
    bars = Markup("").join(
        Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
            _short(number * step), _short(height - tall), _short(max(0.5, step - 1)), _short(tall)
        )
        for number, value in enumerate(heights)
        if (tall := _tall(value, top, height))
    )
    return Markup(
        '<svg class="chart" role="img" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-label="{}">'
        '<title>{}</title><line class="ground" x1="0" y1="{}" x2="{}" y2="{}"/>{}</svg>'
    ).format(width, height, title, title, height, width, height, bars)


def bar(part: float, whole: float, *, title: str) -> Markup:
    """Return a bar that is filled by `part` of `whole`; empty where the whole is not known."""
    share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
    return Markup(
        '<svg class="bar" role="img" viewBox="0 0 100 8" preserveAspectRatio="none" aria-label="{}"><title>{}</title>'
        '<rect class="rail" width="100" height="8"/><rect class="fill" width="{}" height="8"/></svg>'
    ).format(title, title, _short(100 * share))


def _tall(value: float, top: float, height: int) -> float:
    """Return a column's height: whatever is more than nothing can be seen."""
    return max(1.5, height * value / top) if value > 0 and top > 0 else 0.0


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
