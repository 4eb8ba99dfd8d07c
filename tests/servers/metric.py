"""What the metrics of this process show, read as a scrape reads them."""

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info

AnyMetric = Counter | Gauge | Histogram | Info


def counted(name: str, **labels: str) -> float:
    """Return what a counter of ours shows, 0 where it has counted nothing with these labels yet."""
    return REGISTRY.get_sample_value(f"whatsms_events_{name}_total", labels) or 0.0


def shown(name: str, **labels: str) -> float | None:
    """Return what a gauge of ours shows, None where nothing set it with these labels yet."""
    return REGISTRY.get_sample_value(f"whatsms_events_{name}", labels)


def name_of(metric: AnyMetric) -> str:
    """Return a metric's name without the ending of its kind."""
    (described,) = metric.describe()
    return described.name


def text_of(metric: AnyMetric) -> str:
    """Return what a metric says about itself."""
    (described,) = metric.describe()
    return described.documentation


def labels_of(metric: AnyMetric) -> tuple[str, ...]:
    """Return the names of a metric's labels."""
    return tuple(metric._labelnames)  # noqa: SLF001 - prometheus_client has no public name for them
