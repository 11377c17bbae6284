"""Prometheus metrics of the feature server: counts and times over all workers, and the age of its features.

No label has text from a client: routes and services are known names, or one that stands for all others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import feast.metrics  # noqa: F401 (it configures prometheus-client, so it must come first)
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from features.online import generation
from features.serving.served import Served

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
PREFIX = "millrace_"
CLIENT_CLOSED = "closed"
"""In place of a status: the client disconnected before it had a response."""
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

REQUESTS = Counter(
    "millrace_features_requests",
    "Requests by route, feature service (empty where features are listed one by one) and HTTP status",
    ["route", "service", "status"],
)
SECONDS = Histogram(
    "millrace_features_request_seconds",
    "Seconds from a request's headers to the end of its answer",
    ["route", "service"],
    buckets=BUCKETS,
)
ENTITIES = Counter("millrace_features_entities", "Entities that were answered, by feature service", ["service"])


def observe(route: str, service: str, status: str, seconds: float) -> None:
    """Count a request."""
    count, time = _children(route, service, status)
    count.inc()
    time.observe(seconds)


def observe_entities(service: str, count: int) -> None:
    """Count the entities of a request that was answered."""
    _entities(service).inc(count)


@lru_cache(1 << 12)
def _children(route: str, service: str, status: str) -> tuple[Any, Any]:
    return REQUESTS.labels(route, service, status), SECONDS.labels(route, service)


@lru_cache(1 << 12)
def _entities(service: str) -> Any:
    return ENTITIES.labels(service)


def exposition(served: Served | None, workers: int, registry_answers: bool = True) -> bytes:
    """All metrics in Prometheus' text format. While `served` is None, only `workers`, `registry_answers` and `ready`
    describe the server.
    """
    registry = CollectorRegistry()
    registry.register(_WorkerMetrics())
    registry.register(_ServedMetrics(served, workers, registry_answers))
    return generate_latest(registry)


class _WorkerMetrics(Collector):
    """Metrics of the workers, without Feast's own, which are disabled."""

    def collect(self) -> Iterator[Metric]:
        """Sums over the files of all workers, including those that ended."""
        # A worker creates its file empty and then gives it a size. Reading it in between would fail the whole response.
        folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        files = [str(path) for path in folder.glob("*.db") if path.stat().st_size]
        merge: Any = MultiProcessCollector.merge
        metrics = merge(files)
        return (metric for metric in metrics if metric.name.startswith(PREFIX))


class _ServedMetrics(Collector):
    def __init__(self, served: Served | None, workers: int, registry_answers: bool) -> None:
        self._served, self._workers, self._registry_answers = served, workers, registry_answers

    def collect(self) -> Iterable[Metric]:
        """Gauges as of this moment."""
        served, now = self._served, generation.now()
        yield _gauge("workers", "Configured worker processes", self._workers)
        doc = "0 while the registry is away, and what was read of it last is served"
        yield _gauge("registry_answers", doc, self._registry_answers)
        yield _gauge("ready", "1 while features are online and the online store answers", served is not None)
        if served is None:
            return
        labels = {"generation": served.generation}
        yield InfoMetricFamily("millrace_features_generation", "The generation in use", labels)
        yield _gauge("pushed", "1 if rows were pushed into the generation in use", served.pushed)
        if served.release is not None:
            yield _gauge("release", "Number of the release in use", served.release)
        if served.horizon:
            yield _gauge(
                "horizon_timestamp_seconds",
                "The horizon of the release in use, in seconds since 1970",
                served.horizon.timestamp(),
            )
            yield _gauge(
                "data_age_seconds",
                "Seconds since the horizon of the release in use",
                (now - served.horizon).total_seconds(),
            )
        if served.published_at:
            yield _gauge(
                "published_timestamp_seconds",
                "When the generation in use was published, in seconds since 1970",
                served.published_at.timestamp(),
            )
            yield _gauge(
                "generation_age_seconds",
                "Seconds since the generation in use was published",
                (now - served.published_at).total_seconds(),
            )


def _gauge(name: str, doc: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"millrace_features_{name}", doc, float(value))
