"""Outbox and Kafka: what consumers have not heard of yet, what they never will, and what others told us."""

from __future__ import annotations

from typing import Final

from metrics.dashboards.panels import Section, dashboard, graph, number

OUTBOX: Final = dashboard(
    "payments-outbox",
    "Payments: outbox and Kafka",
    "Events on their way to Kafka, events that it will not take, and messages of other services.",
    Section(
        "Now",
        (
            number("Events waiting", "short", "Events not yet acknowledged by the broker.", "max(outbox_depth)"),
            number("Oldest event", "s", "For how long the oldest of them waits.", "max(outbox_oldest_seconds)"),
            number("Parked events", "short", "Put aside until an operator puts them back.", "max(parked_events)"),
            number("Published", "eps", "Events acknowledged by the broker.",
                   "sum(rate(events_published_total[$__rate_interval]))"),
            number("Failures", "eps", "Events that were not acknowledged and will be sent again.",
                   "sum(rate(event_publish_failures_total[$__rate_interval]))"),
            number("Entries lost", "short", "Stream entries deleted before they were acknowledged. Must stay 0.",
                   "sum(stream_entries_lost_total)"),
        ),
    ),
    Section(
        "Outbox",
        (
            graph("Depth", "short", "Events not yet acknowledged by the broker.", ("max(outbox_depth)", "events")),
            graph("Age of the oldest event", "s", "For how long consumers have not heard of it.",
                  ("max(outbox_oldest_seconds)", "oldest")),
            graph("Published by type", "eps", "Events acknowledged by the broker, or written to the event file.",
                  ("sum by (event_type) (rate(events_published_total[$__rate_interval]))", "{{event_type}}")),
            graph("Publish failures", "eps", "Events that were not acknowledged and will be sent again.",
                  ("sum by (instance) (rate(event_publish_failures_total[$__rate_interval]))", "{{instance}}")),
            graph("Parked", "short", "Events that are put aside until an operator puts them back.",
                  ("max(parked_events)", "parked")),
            graph("Parked by reason", "short", "Events put aside since the engines started, by reason.",
                  ("sum by (reason) (events_parked_total)", "{{reason}}")),
        ),
    ),
    Section(
        "Listeners",
        (
            graph("Messages by outcome", "mps", "Messages of other services, by what was made of them.",
                  ("sum by (listener, outcome) (rate(listener_messages_total[$__rate_interval]))",
                   "{{listener}} {{outcome}}"), width=12),
            graph("Dead letters", "short", "Messages that can never be done, since the engines started.",
                  ('sum by (listener) (listener_messages_total{outcome="dead"})', "{{listener}}"), width=12),
        ),
    ),
    Section(
        "Jobs",
        (
            graph("Jobs", "short", "Jobs waiting or being worked on.", ("max(job_queue_depth)", "jobs")),
            graph("Age of the oldest job", "s", "For how long an accepted payment waits.",
                  ("max(job_queue_oldest_seconds)", "oldest")),
            graph("Taken over and lost", "short",
                  "Jobs taken over from a worker that stopped answering, and stream entries that were deleted "
                  "before they were acknowledged.",
                  ("sum(increase(jobs_claimed_total[$__rate_interval]))", "taken over"),
                  ("sum by (instance) (stream_entries_lost_total)", "lost {{instance}}")),
        ),
    ),
)  # fmt: skip
