"""Prometheus counters of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """A registry of its own, so that two servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "splitfrozen_requests_total",
            "Requests by route, method and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "splitfrozen_request_seconds",
            "Time until the last byte of an answer.",
            ("route",),
            registry=self.registry,
        )
        self.shards = Counter(
            "splitfrozen_shards_total",
            "Shard uploads by outcome: accepted, repeated, or an error code.",
            ("outcome",),
            registry=self.registry,
        )
        self.shard_bytes = Counter(
            "splitfrozen_shard_bytes_total",
            "Uncompressed bytes of accepted shards.",
            registry=self.registry,
        )
        self.examples = Counter(
            "splitfrozen_examples_total", "Accepted examples.", registry=self.registry
        )
        self.bodies = Gauge(
            "splitfrozen_shard_bodies_in_memory",
            "Shard bodies being received or checked.",
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "splitfrozen_worker_restarts_total",
            "Times the training worker ended and was started again.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
