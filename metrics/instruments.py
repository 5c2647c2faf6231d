"""Every Prometheus instrument of the process, under the names that users were promised."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from metrics.process import ProcessUsage

_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STORE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Instruments:
    """All counters, gauges and histograms, on one registry.

    Labels are bounded: routes, not paths; counterparties by configured name; outcomes from fixed sets.
    Gauges say how the values of several processes become one in a scrape (`multiprocess_mode`).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests(registry)
        self._payments(registry)
        self._counterparties(registry)
        self._work(registry)
        self._telling(registry)
        self._runtime(registry)
        self.process = ProcessUsage(registry)
        self._begin_at_zero()

    def _requests(self, registry: CollectorRegistry) -> None:
        """What is asked of us."""
        self.http_requests = Counter(
            "http_requests_total",
            "HTTP requests answered.",
            ["surface", "method", "route", "status"],
            registry=registry,
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds",
            "Seconds from the request's head to the answer.",
            ["surface", "method", "route"],
            buckets=_HTTP_SECONDS,
            registry=registry,
        )
        self.rate_limited = Counter(
            "rate_limited_total",
            "Requests refused because a caller had sent too many.",
            ["surface", "rule"],
            registry=registry,
        )
        self.limiter_failures = Counter(
            "rate_limiter_failures_total",
            "Requests that could not be counted, by what became of them: open (taken) or closed (refused).",
            ["policy"],
            registry=registry,
        )
        self.rejections = Counter(
            "rejections_total",
            "Work refused because a named bound was reached.",
            ["bound"],
            registry=registry,
        )

    def _payments(self, registry: CollectorRegistry) -> None:
        """What becomes of the money."""
        self.payments_processed = Counter(
            "payments_processed_total",
            "Payments that reached a terminal outcome.",
            ["status"],
            registry=registry,
        )
        self.refunds_processed = Counter(
            "refunds_processed_total",
            "Refunds that reached a terminal outcome.",
            ["status"],
            registry=registry,
        )
        self.payments_money = Counter(
            "payments_amount_minor_total",
            "Money of the payments that reached a terminal outcome, in the currency's minor units; of completed ones "
            "what was captured.",
            ["status", "currency"],
            registry=registry,
        )
        self.refunds_money = Counter(
            "refunds_amount_minor_total",
            "Money of the refunds that reached a terminal outcome, in the currency's minor units.",
            ["status", "currency"],
            registry=registry,
        )
        self.payment_success_rate = Gauge(
            "payment_success_rate",
            "Completed payments among those that ended in the last five minutes, 0 to 1; NaN when none ended.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.attempts = Counter(
            "payment_attempts_total",
            "Attempts at an acquirer by kind (charge, authorize, capture, void, refund) and outcome "
            "(approved, rejected, unknown, not_sent).",
            ["acquirer", "kind", "outcome"],
            registry=registry,
        )
        self.unknown_attempts = Gauge(
            "unknown_attempts",
            "Attempts whose outcome nobody knows yet.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.unknown_oldest = Gauge(
            "unknown_attempts_oldest_seconds",
            "Age of the oldest attempt without a known outcome.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.late_successes = Counter(
            "late_successes_total",
            "Successes at an acquirer after it was passed over or the payment failed: found, reversed, or refused "
            "(it does not give the money back).",
            ["step"],
            registry=registry,
        )
        self.push_callbacks = Counter(
            "push_callbacks_total",
            "What was made of M-Pesa callbacks: asked, late (known already), forged, or unknown.",
            ["verdict"],
            registry=registry,
        )
        self.open_items = Gauge(
            "open_items",
            "Effects at acquirers that our books do not show and nobody has dealt with.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.open_items_oldest = Gauge(
            "open_items_oldest_seconds",
            "Age of the oldest open item.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.audit_payments_checked = Counter(
            "audit_payments_checked_total",
            "Payments that were held against the audit's rules while the engine runs.",
            registry=registry,
        )
        self.audit_violations = Counter(
            "audit_violations_total",
            "Broken rules found by that: lifecycle, ledger, events, amounts, order, unknown, card. Must stay 0.",
            ["rule"],
            registry=registry,
        )

    def _counterparties(self, registry: CollectorRegistry) -> None:
        """Whom we ask."""
        self.breaker_state = Gauge(
            "circuit_breaker_state",
            "0 closed, 1 half-open, 2 open, 3 forced open.",
            ["counterparty"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.breaker_calls = Counter(
            "circuit_breaker_calls_total",
            "Calls through a guard, by outcome: success, failure, slow, neutral, late, refused_open, refused_full.",
            ["counterparty", "outcome"],
            registry=registry,
        )
        self.breaker_transitions = Counter(
            "circuit_breaker_transitions_total",
            "State changes of a breaker.",
            ["counterparty", "to"],
            registry=registry,
        )
        self.call_duration = Histogram(
            "counterparty_call_duration_seconds",
            "Seconds of one try at a counterparty.",
            ["counterparty"],
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        self.retries = Counter(
            "counterparty_retries_total",
            "Tries after the first at a counterparty.",
            ["counterparty"],
            registry=registry,
        )

    def _work(self, registry: CollectorRegistry) -> None:
        """What waits, and what is told to Kafka and heard from it."""
        self.queue_depth = Gauge(
            "job_queue_depth",
            "Jobs waiting or being worked on.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.queue_oldest = Gauge(
            "job_queue_oldest_seconds",
            "Age of the oldest job.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.jobs_claimed = Counter(
            "jobs_claimed_total",
            "Jobs taken over from a worker that stopped answering.",
            registry=registry,
        )
        self.stream_entries_lost = Counter(
            "stream_entries_lost_total",
            "Pending stream entries that were deleted before they were acknowledged. Must stay 0.",
            registry=registry,
        )
        self.outbox_depth = Gauge(
            "outbox_depth",
            "Events not yet acknowledged by the broker.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.outbox_oldest = Gauge(
            "outbox_oldest_seconds",
            "Age of the oldest event not yet acknowledged.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.events_published = Counter(
            "events_published_total",
            "Events acknowledged by the broker (or the event file).",
            ["event_type"],
            registry=registry,
        )
        self.publish_failures = Counter(
            "event_publish_failures_total",
            "Events that were not acknowledged and will be sent again.",
            registry=registry,
        )
        self.events_parked = Counter(
            "events_parked_total",
            "Events put aside because they will never be taken as they are: message_too_large, record_invalid, "
            "no_topic, unreadable.",
            ["reason"],
            registry=registry,
        )
        self.parked_events = Gauge(
            "parked_events",
            "Events that are put aside until an operator puts them back.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.listener_messages = Counter(
            "listener_messages_total",
            "Messages of other services by listener (order_refunded, product_refunded) and outcome "
            "(refunded, repeated, nothing_left, ignored, dead).",
            ["listener", "outcome"],
            registry=registry,
        )

    def _telling(self, registry: CollectorRegistry) -> None:
        """Whom we tell of events, besides Kafka."""
        self.notifications = Counter(
            "notifications_total",
            "Events by type, channel and outcome. record: written, repeated, no_user, ignored (an unknown type). log: "
            "told. mail: waiting (or full: too many wait for this user), then sent, refused, no_address or expired; "
            "failed is a try that will be repeated.",
            ["type", "channel", "outcome"],
            registry=registry,
        )
        self.notifications_parked = Counter(
            "notifications_parked_total",
            "Events put aside because nobody can understand them: not_json, no_id, no_type, malformed, broke.",
            ["reason"],
            registry=registry,
        )
        self.notifications_lag = Gauge(
            "notifications_lag_seconds",
            "Age of the oldest event that the notification worker has in hand, or had in the last seconds; 0 "
            "when there was none.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.mails_waiting = Gauge(
            "notification_mails_waiting",
            "Mails that were not sent yet.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.mails_oldest = Gauge(
            "notification_mails_oldest_seconds",
            "Age of the oldest mail that was not sent yet.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.webhook_deliveries = Counter(
            "webhook_deliveries_total",
            "Tries at telling webhook endpoints (delivered, failed, ended: failed for the last time), and messages "
            "that had no room (full), lost their endpoint (dropped) or could not be read (unreadable).",
            ["outcome"],
            registry=registry,
        )
        self.webhook_duration = Histogram(
            "webhook_delivery_seconds",
            "Seconds of one try at telling a webhook endpoint.",
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        self.webhook_disabled = Counter(
            "webhook_endpoints_disabled_total",
            "Webhook endpoints disabled because they were failing for long, or said that they are gone.",
            ["reason"],
            registry=registry,
        )
        self.webhooks_waiting = Gauge(
            "webhook_deliveries_waiting",
            "Webhook messages that are not delivered yet.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.webhooks_oldest = Gauge(
            "webhook_deliveries_oldest_seconds",
            "Age of the oldest of them.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )

    def _runtime(self, registry: CollectorRegistry) -> None:
        """What all of it stands on."""
        self.database_connections = Gauge(
            "database_connections_active",
            "Open connections to Redis.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.store_batch = Histogram(
            "store_batch_steps",
            "Steps that left for Redis in one pipeline.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.store_pipeline = Histogram(
            "store_pipeline_duration_seconds",
            "Seconds from sending a pipeline to Redis until all its steps were answered.",
            buckets=_STORE_SECONDS,
            registry=registry,
        )
        self.store_fit = Gauge(
            "store_fit",
            "1 while the check of Redis finds nothing wrong with it, else 0: then no payment is taken.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.store_durable = Gauge(
            "store_durable",
            "1 if Redis, when it last answered, kept what it is given over a crash, on as many replicas as wanted.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.loop_lag = Gauge(
            "event_loop_lag_seconds",
            "How late the event loop woke up, worst of the last sampling interval.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.trace_spans = Counter(
            "trace_spans_total",
            "Spans by what became of them: exported, failed (the collector did not take them), or dropped (no room).",
            ["outcome"],
            registry=registry,
        )

    def _begin_at_zero(self) -> None:
        """Show what has not happened yet: Prometheus takes the first value of a new series for no increase."""
        for counter, values in (
            (self.late_successes, ("found", "reversed", "refused")),
            (self.payments_processed, ("completed", "failed", "cancelled")),
            (self.refunds_processed, ("completed", "failed")),
            (self.events_parked, ("message_too_large", "record_invalid", "no_topic", "unreadable")),
            (self.notifications_parked, ("not_json", "no_id", "no_type", "malformed", "broke")),
            (self.push_callbacks, ("asked", "late", "forged", "unknown")),
            (self.rejections, ("store_waiting", "logins", "jobs", "outbox")),
        ):
            for value in values:
                counter.labels(value)
