"""Redis and runtime: how fast the store answers, and what the processes use."""

from __future__ import annotations

from typing import Final

from metrics.dashboards.panels import Section, State, dashboard, graph, number, states


def _quantile(quantile: float, name: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate({name}_bucket[$__rate_interval])))"


def _mean(name: str) -> str:
    return f"sum(rate({name}_sum[$__rate_interval])) / sum(rate({name}_count[$__rate_interval]))"


RUNTIME: Final = dashboard(
    "payments-runtime",
    "Payments: Redis and runtime",
    "Pipelines to Redis, and the processes: event loop, CPU, memory, garbage collection, rate limiter.",
    Section(
        "Redis",
        (
            states("Fit", "Whether the check finds nothing wrong with Redis; while it does, no payment is taken.",
                   ("store_fit", "{{instance}}"), (State(0, "unfit", "red"), State(1, "fit", "green"))),
            states("Durable", "Whether Redis keeps what it is given over a crash, on as many replicas as wanted.",
                   ("store_durable", "{{instance}}"), (State(0, "not durable", "red"), State(1, "durable", "green"))),
            graph("Connections", "short", "Open connections to Redis.",
                  ("database_connections_active", "{{instance}}")),
            graph("Pipelines", "ops", "Pipelines sent to Redis.",
                  ("sum by (instance) (rate(store_batch_steps_count[$__rate_interval]))", "{{instance}}")),
            graph("Steps in a pipeline", "short", "Steps that left in one pipeline: the more, the cheaper each.",
                  (_mean("store_batch_steps"), "mean"), (_quantile(0.99, "store_batch_steps"), "p99")),
            graph("Duration of a pipeline", "s", "From sending until all its steps were answered.",
                  (_quantile(0.5, "store_pipeline_duration_seconds"), "p50"),
                  (_quantile(0.99, "store_pipeline_duration_seconds"), "p99")),
        ),
    ),
    Section(
        "Rate limiter",
        (
            graph("Refused by a rate limit", "reqps", "Requests refused with 429.",
                  ("sum by (surface, rule) (rate(rate_limited_total[$__rate_interval]))", "{{surface}} {{rule}}"),
                  width=12),
            graph("Not counted", "reqps", "Requests that the limiter could not count, by what became of them.",
                  ("sum by (policy) (rate(rate_limiter_failures_total[$__rate_interval]))", "{{policy}}"), width=12),
        ),
    ),
    Section(
        "Processes",
        (
            graph("Event loop lag", "s", "How late the event loop woke up, worst of the last two seconds.",
                  ("event_loop_lag_seconds", "{{instance}}")),
            graph("CPU", "short", "Cores in use.",
                  ("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")),
            graph("Memory", "bytes", "Resident memory.", ("process_resident_memory_bytes", "{{instance}}")),
            graph("Time in garbage collection", "percentunit", "Share of the time for which it held everything up.",
                  ("sum by (instance) (rate(python_gc_pause_seconds_total[$__rate_interval]))", "{{instance}}"),
                  highest=1),
            graph("Garbage collections", "ops", "By generation: 2 looks at everything.",
                  ("sum by (generation) (rate(python_gc_collections_total[$__rate_interval]))",
                   "generation {{generation}}")),
            graph("Open files", "short", "Open files and sockets.", ("process_open_fds", "{{instance}}")),
        ),
    ),
    Section(
        "Scrapes",
        (
            number("Engines up", "short", "Engines that Prometheus reaches.", 'sum(up{job="payments"})', width=6,
                   height=8),
            graph("Duration of a scrape", "s", "How long an engine takes to answer /metrics.",
                  ('scrape_duration_seconds{job="payments"}', "{{instance}}"), width=9),
            graph("Series", "short", "Values that an engine shows.",
                  ('scrape_samples_scraped{job="payments"}', "{{instance}}"), width=9),
        ),
    ),
)  # fmt: skip
