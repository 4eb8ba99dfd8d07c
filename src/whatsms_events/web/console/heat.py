"""How delays are spread over the hours, as one small picture: a column for each part of a period, a row for a range."""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

WIDTH: Final = 480
ROW: Final = 14


def heat(cells: Sequence[Sequence[int]], *, title: str) -> Markup:
    """Return a picture of counts: `cells` has a sequence for each column, from the bottom up; the fuller, the stronger.

    `title` says what a screen reader reads; whoever wants the numbers has a table beside it.
    """
    rows = max(map(len, cells), default=0)
    step = WIDTH / max(1, len(cells))
    drawn = Markup("").join(
        Markup(
            '<rect x="{:.2f}" y="{}" width="{:.2f}" height="{}" fill-opacity="{:.2f}"><title>{}</title></rect>'
        ).format(number * step, (rows - 1 - row) * ROW, max(0.5, step - 1), ROW - 1, _shade(count, sum(column)), count)
        for number, column in enumerate(cells)
        for row, count in enumerate(column)
        if count
    )
    height = max(1, rows) * ROW
    return Markup(
        '<svg class="heat" role="img" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-label="{}"><title>{}</title>'
        '<rect class="rail" width="{}" height="{}"/>{}</svg>'
    ).format(WIDTH, height, title, title, WIDTH, height, drawn)


def _shade(count: int, whole: int) -> float:
    """Return how strong a cell's colour is: its share of its column, and never too pale to be seen."""
    return 0.15 + 0.85 * count / whole
