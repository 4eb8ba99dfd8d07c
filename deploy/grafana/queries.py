"""PromQL for the panels: a metric of the code goes in, a query for the chosen processes and tenants comes out.

A metric is given as the object of `whatsms_events.metrics`, and a label that it does not have is refused: so a board
cannot ask for what no process shows.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

from prometheus_client import Counter, Gauge, Histogram, Info

Metric = Counter | Gauge | Histogram | Info

PROCESS: Final = 'job=~"$job",instance=~"$instance"'
"""The chosen processes."""

WINDOW: Final = "$__rate_interval"
"""The range of every rate: Grafana makes it four scrapes at least, so that a rate has its two points."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, and how its series are called there."""

    expr: str
    legend: str

    def named(self, legend: str) -> Self:
        """Return it with another name for its series."""
        return replace(self, legend=legend)


def name_of(metric: Metric) -> str:
    """Return a metric's name without the ending of its kind."""
    (described,) = metric.describe()
    return str(described.name)


def labels_of(metric: Metric) -> tuple[str, ...]:
    """Return the names of a metric's labels."""
    return tuple(metric._labelnames)  # noqa: SLF001 - prometheus_client has no public name for them


def chosen(metric: Metric, end: str = "", **matchers: str) -> str:
    """Return the selection of a metric for the chosen processes, and the chosen tenants where it knows tenants.

    `end` is the ending of a sample, such as `_bucket`; each matcher is a regular expression, and one that begins with
    "!" keeps the others. Raise ValueError for a label that the metric does not have.
    """
    labels = labels_of(metric)
    if unknown := matchers.keys() - set(labels):
        raise ValueError(f"{name_of(metric)} has no label {', '.join(sorted(unknown))}")
    parts = [PROCESS, *(['tenant=~"$tenant"'] if "tenant" in labels else [])]
    for label, value in matchers.items():
        operator = "!~" if value.startswith("!") else "=~" if set(value) & set("|.*") else "="
        parts.append(f'{label}{operator}"{value.removeprefix("!")}"')
    ends = {Counter: "_total", Info: "_info"}
    return f"{name_of(metric)}{end or ends.get(type(metric), '')}{{{','.join(parts)}}}"


def counted(metric: Counter, function: str = "rate", window: str = WINDOW, **matchers: str) -> str:
    """Return how much a counter rose: its rate or its increase."""
    return f"{function}({chosen(metric, **matchers)}[{window}])"


def grouped(operation: str, by: tuple[str, ...], inner: str) -> str:
    """Return an aggregation over what `inner` selects."""
    return f"{operation} by ({', '.join(by)}) ({inner})" if by else f"{operation}({inner})"


def legend_of(by: tuple[str, ...]) -> str:
    """Return the name of a series: the values of the labels that it was grouped by."""
    return " ".join(f"{{{{{label}}}}}" for label in by)


def rate(metric: Counter, *by: str, **matchers: str) -> Query:
    """Ask how often a second something happened, by these labels."""
    return Query(grouped("sum", by, counted(metric, **matchers)), legend_of(by) or "all")


def latest(metric: Gauge | Info, *by: str, operation: str = "max", **matchers: str) -> Query:
    """Ask for a gauge. The largest: what is read from the databases is the same in every process."""
    return Query(grouped(operation, by, chosen(metric, **matchers)), legend_of(by) or "all")


def age(metric: Gauge, *by: str) -> Query:
    """Ask how long ago a point of time was; 0, which means that there is none, is left out."""
    return Query(f"time() - {grouped('max', by, f'{chosen(metric)} > 0')}", legend_of(by) or "all")


def left(metric: Gauge, *by: str) -> Query:
    """Ask how long it is until a point of time; 0, which means that there is none, is left out."""
    until = grouped("max", by, f"{chosen(metric)} > 0")
    return Query(f"clamp_min({until} - time(), 0)", legend_of(by) or "all")


def quantile(metric: Histogram, share: float, legend: str, *by: str, **matchers: str) -> Query:
    """Ask below which value so large a share was."""
    inner = f"rate({chosen(metric, '_bucket', **matchers)}[{WINDOW}])"
    return Query(f"histogram_quantile({share:g}, {grouped('sum', ('le', *by), inner)})", legend)


def quantiles(metric: Histogram, share: float = 0.99, word: str = "faster") -> tuple[Query, Query]:
    """Ask for the middle, and for the value that all but a few are below."""
    return quantile(metric, 0.5, f"half are {word}"), quantile(metric, share, f"{share:.0%} are {word}")


def mean(metric: Histogram, legend: str) -> Query:
    """Ask for the average."""
    above, below = (f"sum(rate({chosen(metric, end)}[{WINDOW}]))" for end in ("_sum", "_count"))
    return Query(f"{above} / {below}", legend)


def of_python(name: str, *, rated: bool = False) -> Query:
    """Ask for what every scrape of a Python process gives, by instance."""
    selection = f"{name}{{{PROCESS}}}"
    return Query(f"rate({selection}[{WINDOW}])" if rated else selection, "{{instance}}")
