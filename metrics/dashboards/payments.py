"""Payments and money: what was taken, what became of it, what nobody knows yet, and whether the books are right."""

from __future__ import annotations

from typing import Final

from metrics.dashboards.panels import Section, dashboard, graph, number

_ACCEPTING: Final = "/api/payments|/api/payment/pay/.*|/api/v1/payments/initiate"
"""The routes of all surfaces that take a payment."""

PAYMENTS: Final = dashboard(
    "payments-money",
    "Payments: payments and money",
    "Payments and refunds by outcome, outcomes that nobody knows yet, and what the audit finds.",
    Section(
        "Now",
        (
            number("Unknown attempts", "short", "Money may have moved for each of them.", "max(unknown_attempts)"),
            number("Oldest unknown", "s", "Age of the oldest attempt without a known outcome.",
                   "max(unknown_attempts_oldest_seconds)"),
            number("Open items", "short", "Effects at acquirers that our books do not show.", "max(open_items)"),
            number("Broken rules", "short", "Found by the audit since the engines started. Must stay 0.",
                   "sum(audit_violations_total)"),
            number("Waiting jobs", "short", "Accepted payments that wait for a worker, or are with one.",
                   "max(job_queue_depth)"),
            number("Oldest job", "s", "For how long the oldest of them waits.", "max(job_queue_oldest_seconds)"),
        ),
    ),
    Section(
        "Payments",
        (
            graph("Accepted", "ops", "Payments that were taken, by surface. Repeated requests count again.",
                  (f'sum by (surface) (rate(http_requests_total{{method="POST", route=~"{_ACCEPTING}", status=~"2.."}}'
                   "[$__rate_interval]))", "{{surface}}")),
            graph("Ended, by status", "ops", "Payments that reached a terminal outcome.",
                  ("sum by (status) (rate(payments_processed_total[$__rate_interval]))", "{{status}}")),
            graph("Success rate", "percentunit", "Completed payments among those that ended in the last five minutes.",
                  ('sum(rate(payments_processed_total{status="completed"}[5m]))'
                   " / sum(rate(payments_processed_total[5m]))", "all"),
                  ("payment_success_rate", "{{instance}}"), highest=1),
            graph("Charges by outcome", "ops", "What acquirers answered to charges, authorizations and captures.",
                  ('sum by (acquirer, outcome) (rate(payment_attempts_total{kind=~"charge|authorize|capture"}'
                   "[$__rate_interval]))", "{{acquirer}} {{outcome}}"), width=12),
            graph("Attempts by kind", "ops", "Charges, authorizations, captures, voids and refunds, at all acquirers.",
                  ("sum by (kind) (rate(payment_attempts_total[$__rate_interval]))", "{{kind}}"), width=12),
        ),
    ),
    Section(
        "Refunds",
        (
            graph("Refunds, by status", "ops", "Refunds that reached a terminal outcome.",
                  ("sum by (status) (rate(refunds_processed_total[$__rate_interval]))", "{{status}}"), width=12),
            graph("Refund attempts by outcome", "ops", "What acquirers answered to refunds and voids.",
                  ('sum by (acquirer, outcome) (rate(payment_attempts_total{kind=~"refund|void"}[$__rate_interval]))',
                   "{{acquirer}} {{outcome}}"), width=12),
        ),
    ),
    Section(
        "Money",
        (
            graph("Taken", "short", "Money of completed payments in the interval, in minor units of each currency.",
                  ('sum by (currency) (increase(payments_amount_minor_total{status="completed"}[$__rate_interval]))',
                   "{{currency}}")),
            graph("Not taken", "short", "Money of failed and cancelled payments in the interval, in minor units.",
                  ('sum by (status, currency) (increase(payments_amount_minor_total{status!="completed"}'
                   "[$__rate_interval]))", "{{status}} {{currency}}")),
            graph("Given back", "short", "Money of completed refunds in the interval, in minor units.",
                  ('sum by (currency) (increase(refunds_amount_minor_total{status="completed"}[$__rate_interval]))',
                   "{{currency}}")),
        ),
    ),
    Section(
        "What nobody knows yet",
        (
            graph("Unknown attempts", "short", "Attempts whose outcome nobody knows yet; the acquirer is asked.",
                  ("max(unknown_attempts)", "unknown")),
            graph("Age of the oldest unknown attempt", "s", "For how long a customer waits to hear.",
                  ("max(unknown_attempts_oldest_seconds)", "oldest")),
            graph("M-Pesa callbacks", "ops", "Callbacks by what was made of them.",
                  ("sum by (verdict) (rate(push_callbacks_total[$__rate_interval]))", "{{verdict}}")),
            graph("Open items", "short", "Effects at acquirers that our books do not show and nobody has dealt with.",
                  ("max(open_items)", "open")),
            graph("Age of the oldest open item", "s", "For how long nobody has dealt with it.",
                  ("max(open_items_oldest_seconds)", "oldest")),
            graph("Late successes", "short",
                  "Money that an acquirer took after it was passed over: found, given back, not given back.",
                  ("sum by (step) (late_successes_total)", "{{step}}")),
        ),
    ),
    Section(
        "Audit",
        (
            graph("Payments audited", "ops", "Payments that were held against the audit's rules.",
                  ("sum by (instance) (rate(audit_payments_checked_total[$__rate_interval]))", "{{instance}}"),
                  width=12),
            graph("Broken rules", "short", "What the audit has found since the engine started. Must stay 0.",
                  ("sum by (rule) (audit_violations_total)", "{{rule}}"), width=12),
        ),
    ),
)  # fmt: skip
