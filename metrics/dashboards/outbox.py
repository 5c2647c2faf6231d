"""Outbox and Kafka: what consumers and people have not heard of yet, what they never will, and what others told us."""

from __future__ import annotations

from typing import Final

from metrics.dashboards.panels import Section, dashboard, graph, number

OUTBOX: Final = dashboard(
    "payments-outbox",
    "Payments: outbox and Kafka",
    "Events on their way to Kafka and to people, events that nobody will take, and messages of other services.",
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
        "Notifications and webhooks",
        (
            graph("Notifications by outcome", "eps", "Events that concern somebody, by what was made of them.",
                  ("sum by (channel, outcome) (rate(notifications_total[$__rate_interval]))",
                   "{{channel}} {{outcome}}")),
            graph("Behind by", "s", "Age of the oldest event that the worker has had in hand, and of the oldest mail.",
                  ("max(notifications_lag_seconds)", "event"), ("max(notification_mails_oldest_seconds)", "mail")),
            graph("Put aside", "short", "Events that nobody understands, since the workers started.",
                  ("sum by (reason) (notifications_parked_total)", "{{reason}}")),
            graph("Webhook tries by outcome", "eps", "Tries at telling endpoints; `ended` is the last of a message.",
                  ("sum by (outcome) (rate(webhook_deliveries_total[$__rate_interval]))", "{{outcome}}")),
            graph("Webhook time", "s", "Half of the tries, and 99 of 100, take no longer.",
                  ("histogram_quantile(0.5, "
                   "sum by (le) (rate(webhook_delivery_seconds_bucket[$__rate_interval])))", "p50"),
                  ("histogram_quantile(0.99, "
                   "sum by (le) (rate(webhook_delivery_seconds_bucket[$__rate_interval])))", "p99")),
            graph("Webhooks waiting", "short", "Messages not delivered yet, and endpoints disabled since the start.",
                  ("max(webhook_deliveries_waiting)", "messages"),
                  ("sum(webhook_endpoints_disabled_total)", "endpoints disabled")),
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
