"""What the metrics of this process show, read as a scrape reads them."""

from collections.abc import Mapping
from types import MappingProxyType

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info

AnyMetric = Counter | Gauge | Histogram | Info


def sample(name: str, labels: Mapping[str, str] = MappingProxyType({})) -> float | None:
    """Return a sample by its whole name, None where there is none yet.

    Only the metric that has it is collected: the registry's own `get_sample_value` collects all of them each time.
    """
    metrics = REGISTRY.restricted_registry([name]).collect()
    samples = (one for metric in metrics for one in metric.samples)
    return next((one.value for one in samples if one.name == name and one.labels == labels), None)


def counted(name: str, **labels: str) -> float:
    """Return what a counter of ours shows, 0 where it has counted nothing with these labels yet."""
    return sample(f"whatsms_events_{name}_total", labels) or 0.0


def shown(name: str, **labels: str) -> float | None:
    """Return what a gauge of ours shows, None where nothing set it with these labels yet."""
    return sample(f"whatsms_events_{name}", labels)


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
