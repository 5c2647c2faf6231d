"""Service overview: rate, errors and duration, of all surfaces together, of each, and of each route."""

from __future__ import annotations

from typing import Final

from metrics.dashboards.panels import Section, dashboard, graph, number

_OPERATIONS: Final = 'route!~"/health|/ready|/metrics"'
_RATE: Final = f"rate(http_requests_total{{{_OPERATIONS}}}[$__rate_interval])"


def _errors(status: str, labels: str = "") -> str:
    """The share of the answers with this kind of status; 0, not nothing, where there were none."""
    by = f" by ({labels}) " if labels else ""
    wrong = f'rate(http_requests_total{{{_OPERATIONS}, status=~"{status}"}}[$__rate_interval])'
    return f"(sum{by}({wrong}) or 0 * sum{by}({_RATE})) / sum{by}({_RATE})"


def _quantile(quantile: float, labels: str = "") -> str:
    by = ", ".join(filter(None, ("le", labels)))
    seconds = f"rate(http_request_duration_seconds_bucket{{{_OPERATIONS}}}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by ({by}) ({seconds}))"


OVERVIEW: Final = dashboard(
    "payments-overview",
    "Payments: service overview",
    "Requests, errors and durations per surface and route. Probes and scrapes are left out.",
    Section(
        "Now",
        (
            number("Engines up", "short", "Engines that Prometheus reaches.", 'sum(up{job="payments"})'),
            number("Requests", "reqps", "Requests answered, all surfaces.", f"sum({_RATE})"),
            number("Server errors", "percentunit", "Share of 5xx among the answers.", _errors("5.."), highest=1),
            number("p99", "s", "99 of 100 requests are answered within this.", _quantile(0.99)),
            number("Success rate", "percentunit",
                   "Completed payments among those that ended in the last five minutes.",
                   'sum(rate(payments_processed_total{status="completed"}[5m]))'
                   " / sum(rate(payments_processed_total[5m]))", highest=1),
            number("Store", "short", "1 while Redis is fit to hold money, on every engine.", "min(store_fit)",
                   highest=1),
        ),
    ),
    Section(
        "Per surface",
        (
            graph("Requests per surface", "reqps", "Requests answered.",
                  (f"sum by (surface) ({_RATE})", "{{surface}}")),
            graph("Errors per surface", "percentunit", "Share of 5xx (ours) and 4xx (theirs) among the answers.",
                  (_errors("5..", "surface"), "5xx {{surface}}"), (_errors("4..", "surface"), "4xx {{surface}}"),
                  highest=1),
            graph("Duration per surface", "s", "Half and 99 of 100 requests are answered within this.",
                  (_quantile(0.5, "surface"), "p50 {{surface}}"), (_quantile(0.99, "surface"), "p99 {{surface}}")),
        ),
    ),
    Section(
        "Per route",
        (
            graph("Requests per route", "reqps", "Requests answered.",
                  (f"sum by (surface, method, route) ({_RATE})", "{{surface}} {{method}} {{route}}"), width=12),
            graph("Duration per route, p99", "s", "99 of 100 requests are answered within this.",
                  (_quantile(0.99, "surface, method, route"), "{{surface}} {{method}} {{route}}"), width=12),
            graph("Server errors per route", "percentunit", "Share of 5xx among the answers.",
                  (_errors("5..", "surface, method, route"), "{{surface}} {{method}} {{route}}"), highest=1),
            graph("Client errors per route", "percentunit", "Share of 4xx among the answers.",
                  (_errors("4..", "surface, method, route"), "{{surface}} {{method}} {{route}}"), highest=1),
            graph("Answers by status", "reqps", "Every status of the answers.",
                  (f"sum by (status) ({_RATE})", "{{status}}")),
        ),
    ),
    Section(
        "Refused",
        (
            graph("Rate limits", "reqps", "Requests refused with 429, because a caller had sent too many.",
                  ("sum by (surface, rule) (rate(rate_limited_total[$__rate_interval]))", "{{surface}} {{rule}}"),
                  width=12),
            graph("Bounds", "ops", "Work refused because a named bound was reached.",
                  ("sum by (bound) (rate(rejections_total[$__rate_interval]))", "{{bound}}"), width=12),
        ),
    ),
)  # fmt: skip
