"""The text that Prometheus scrapes, made faster than the client library makes it.

A scrape holds up the event loop for as long as it takes, and most of that goes into writing the same names and labels
again and again. Here the start of each line is written once and kept. What the library adds, a `_created` gauge for
each series, is left out: Prometheus has no use for it in this format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.utils import floatToGoString

_CREATED: Final = "_created"


def head(name: str, kind: str, text: str) -> str:
    """The lines before a metric's values."""
    name = f"{name}_total" if kind == "counter" else name
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {escaped}\n# TYPE {name} {kind}\n"


def line_start(name: str, labels: Mapping[str, str]) -> str:
    """A line up to its value."""
    if not labels:
        return f"{name} "
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}} "


def line(start: str, value: float) -> str:
    """A whole line."""
    return f"{start}{floatToGoString(value)}\n"  # type: ignore[no-untyped-call]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Exposition:
    """The values of one process. Labels are bounded, hence so are the lines that are kept."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._starts: dict[tuple[str, ...], str] = {}

    def text(self) -> bytes:
        """All values as of now."""
        lines: list[str] = []
        starts = self._starts
        for metric in self._registry.collect():
            lines.append(head(metric.name, metric.type, metric.documentation))
            for sample in metric.samples:
                if sample.name.endswith(_CREATED):
                    continue
                # The labels of one metric always come in the same order.
                key = (sample.name, *sample.labels.values())
                start = starts.get(key)
                if start is None:
                    start = starts[key] = line_start(sample.name, sample.labels)
                lines.append(line(start, sample.value))
        return "".join(lines).encode()
