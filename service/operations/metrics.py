"""Every Prometheus metric, by name. `docs/observability.md` explains them; the dashboard of the chart shows them.

Labels are few and known beforehand: base models of the catalogue, route templates, our own error codes; never what a
client invents.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import Info

from service import VERSION

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WAITS = (1, 5, 15, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 3 * _DAY)
_REQUESTS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STEPS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, _MINUTE, 5 * _MINUTE, _HOUR, 6 * _HOUR)
_CALLS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, _MINUTE)
_LOADS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE)


class Metrics:
    """One set for each application, in a registry of its own."""

    def __init__(self, role: str) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Info("fettle_build", "Version and role of this process.", registry=registry).info(
            {"version": VERSION, "role": role}
        )
        self.ready = Gauge(
            "fettle_ready", "1 when the part could be used at the last look.", ["part"], registry=registry
        )
        self._add_jobs(registry)
        self._add_loops(registry)
        self._add_requests(registry)
        self._database_connections = Gauge(
            "fettle_database_connections", "Connections of this process, by state.", ["state"], registry=registry
        )

    def _add_jobs(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(
            "fettle_jobs", "Fine-tuning jobs by status, of the whole installation.", ["status"], registry=registry
        )
        self.job_queue = Histogram(
            "fettle_job_queue_seconds",
            "From a job's creation to its first start.",
            ["base_model"],
            registry=registry,
            buckets=_WAITS,
        )
        self.job_run = Histogram(
            "fettle_job_run_seconds",
            "From a job's first start to its end.",
            ["base_model", "status"],
            registry=registry,
            buckets=_WAITS,
        )
        self.jobs_ended = Counter(
            "fettle_jobs_ended", "Jobs by how they ended and the error's code.", ["status", "code"], registry=registry
        )
        self.trained_tokens = Counter(
            "fettle_trained_tokens", "Tokens of the jobs that succeeded.", ["base_model"], registry=registry
        )

    def _add_loops(self, registry: CollectorRegistry) -> None:
        self.lateness = Gauge(
            "fettle_due_lateness_seconds",
            "How long the oldest piece of work has been due that nobody works on.",
            ["work"],
            registry=registry,
        )
        self.scrape_errors = Counter(
            "fettle_scrape_errors", "Scrapes that could not ask the database.", registry=registry
        )
        self.step = Histogram(
            "fettle_step_seconds",
            "Steps of jobs and batches, by the status in which they were taken.",
            ["work", "status"],
            registry=registry,
            buckets=_STEPS,
        )
        self.step_errors = Counter(
            "fettle_step_errors",
            "Steps that a bug or a part that is away broke off; they are taken again.",
            ["work", "status"],
            registry=registry,
        )
        self.executor_call = Histogram(
            "fettle_executor_call_seconds",
            "Calls to the place where trainers run.",
            ["call", "outcome"],
            registry=registry,
            buckets=_CALLS,
        )
        self.adapter_load = Histogram(
            "fettle_adapter_load_seconds",
            "Loading a new adapter where it is served.",
            ["base_model", "outcome"],
            registry=registry,
            buckets=_LOADS,
        )
        self.webhook_deliveries = Counter(
            "fettle_webhook_deliveries",
            "Attempts to deliver a webhook, by what the delivery is afterwards.",
            ["status"],
            registry=registry,
        )

    def _add_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "fettle_http_requests", "Requests by route.", ["method", "route", "status"], registry=registry
        )
        self.request_time = Histogram(
            "fettle_http_request_seconds",
            "Until the last byte of the answer.",
            ["method", "route"],
            registry=registry,
            buckets=_REQUESTS,
        )
        self.requests_in_progress = Gauge(
            "fettle_http_requests_in_progress", "Requests that are being answered.", registry=registry
        )
        self.errors = Counter("fettle_http_errors", "Errors by the code that clients see.", ["code"], registry=registry)
        self.gateway_time = Histogram(
            "fettle_gateway_request_seconds",
            "Completions until the last byte, by base model.",
            ["base_model", "status"],
            registry=registry,
            buckets=_REQUESTS,
        )
        self.gateway_first_byte = Histogram(
            "fettle_gateway_first_byte_seconds",
            "Completions until the first byte of the body: of a stream, the first token.",
            ["base_model"],
            registry=registry,
            buckets=_REQUESTS,
        )

    def watch_connections(self, in_use: Callable[[], float], size: Callable[[], float]) -> None:
        self._database_connections.labels("in_use").set_function(in_use)
        self._database_connections.labels("at_most").set_function(size)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
