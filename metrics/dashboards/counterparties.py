"""Circuit breakers and counterparties: whether they answer, how fast, and what is not even sent."""

from __future__ import annotations

from typing import Final

from metrics.dashboards.panels import Section, State, dashboard, graph, number, states

_STATES: Final = (
    State(0, "closed", "green"),
    State(1, "half-open", "yellow"),
    State(2, "open", "red"),
    State(3, "forced open", "purple"),
)
_TRIED: Final = 'outcome!~"refused_.*"'


def _share(outcomes: str) -> str:
    """Of the tries at each counterparty, the share that ended so; 0, not nothing, where there were none."""
    all_of_them = f"sum by (counterparty) (rate(circuit_breaker_calls_total{{{_TRIED}}}[$__rate_interval]))"
    some = f'sum by (counterparty) (rate(circuit_breaker_calls_total{{outcome=~"{outcomes}"}}[$__rate_interval]))'
    return f"{some} / ({all_of_them} > 0)"


def _calls(outcomes: str) -> str:
    rate = f'rate(circuit_breaker_calls_total{{outcome=~"{outcomes}"}}[$__rate_interval])'
    return f"sum by (counterparty, outcome) ({rate})"


def _quantile(quantile: float) -> str:
    seconds = "rate(counterparty_call_duration_seconds_bucket[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by (le, counterparty) ({seconds}))"


COUNTERPARTIES: Final = dashboard(
    "payments-counterparties",
    "Payments: circuit breakers and counterparties",
    "Everybody whom the engine asks: states of the breakers, tries, errors, durations, retries, refusals.",
    Section(
        "Circuit breakers",
        (
            states("State", "The worst state of each breaker over all engines.",
                   ("max by (counterparty) (circuit_breaker_state)", "{{counterparty}}"), _STATES, width=16, height=10),
            number("Not closed", "short", "Breakers that are not closed on at least one engine.",
                   "sum(max by (counterparty) (circuit_breaker_state) > bool 0)", width=8, height=10),
            graph("Transitions", "short", "Changes of state in the interval.",
                  ("sum by (counterparty, to) (increase(circuit_breaker_transitions_total[$__rate_interval]))",
                   "{{counterparty}} to {{to}}"), width=12),
            graph("Refused by an open breaker", "ops", "Calls that were not let out, because the breaker is open.",
                  (_calls("refused_open"), "{{counterparty}}"), width=12),
        ),
    ),
    Section(
        "Calls",
        (
            graph("Calls by outcome", "ops", "Tries at counterparties, by what the breaker makes of them.",
                  ("sum by (counterparty, outcome) (rate(circuit_breaker_calls_total[$__rate_interval]))",
                   "{{counterparty}} {{outcome}}"), width=12),
            graph("Errors", "percentunit", "Share of the tries that failed or were too slow.",
                  (_share("failure|slow"), "{{counterparty}}"), width=12, highest=1),
            graph("Duration of a try, p50", "s", "Half of the tries end within this.",
                  (_quantile(0.5), "{{counterparty}}")),
            graph("Duration of a try, p99", "s", "99 of 100 tries end within this.",
                  (_quantile(0.99), "{{counterparty}}")),
            graph("Slow and late", "ops", "Answers that took too long, and those that nobody waited for any more.",
                  (_calls("slow|late"), "{{counterparty}} {{outcome}}")),
        ),
    ),
    Section(
        "Retries and bulkheads",
        (
            graph("Retries", "ops", "Tries after the first.",
                  ("sum by (counterparty) (rate(counterparty_retries_total[$__rate_interval]))", "{{counterparty}}"),
                  width=12),
            graph("Refused by a full bulkhead", "ops", "Calls that found no place: as many as allowed were under way.",
                  (_calls("refused_full"), "{{counterparty}}"), width=12),
        ),
    ),
)  # fmt: skip
