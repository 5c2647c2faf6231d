"""One scrape for several processes, from the files in which the client library keeps their values.

The library's own collector reads the same files; it parses every key again at every scrape and builds an object for
every value of every process. Here a key is parsed once. The files are read by the library, and a test holds the result
to its collector's.
"""

from __future__ import annotations

import json
import math
from bisect import insort
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from prometheus_client.mmap_dict import MmapedDict

from metrics.exposition import head, line, line_start

_Combine = Callable[[float, float], float]
_ALIVE: Final = "live"
_COMBINE: Final[dict[str, _Combine]] = {"sum": lambda one, other: one + other, "min": min, "max": max}
"""By the gauge's `multiprocess_mode`. There is no `all`: it shows a series for each process, and we want one."""
_RECENT: Final = "mostrecent"


class _Bucket(NamedTuple):
    """A bucket of a histogram's series: up to where, its key in the files, and its line."""

    bound: float
    key: str
    start: str


class _Series:
    """A histogram with one set of labels. Its buckets come in any order, and each counts for itself."""

    def __init__(self, count_start: str) -> None:
        self.buckets: list[_Bucket] = []
        self.count_start = count_start
        self.sum_key = self.sum_start = ""


class _Metric:
    """A metric with the keys that belong to it."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.head = head(name, kind, text)
        self.starts: dict[str, str] = {}
        self.series: dict[str, _Series] = {}


class MergedExposition:
    """The values of all processes whose files are in the folder; gauges only of those that live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[str] = set()
        self._metrics: dict[str, _Metric] = {}

    def text(self) -> bytes:
        """All values as of now."""
        values = self._values()
        lines: list[str] = []
        for metric in self._metrics.values():
            its = [line(start, values[key]) for key, start in metric.starts.items() if key in values]
            for series in metric.series.values():
                its += _histogram_lines(series, values)
            if its:
                lines += [metric.head, *its]
        return "".join(lines).encode()

    def _values(self) -> dict[str, float]:
        """What each key comes to, over all files."""
        values: dict[str, float] = {}
        times: dict[str, float] = {}
        for path in sorted(self._folder.glob("*.db")):
            kind, mode = path.name.split("_")[:2]
            way = mode.removeprefix(_ALIVE) if kind == "gauge" else "sum"
            for key, value, time in _entries(path, may_vanish=kind == "gauge" and mode.startswith(_ALIVE)):
                if key not in self._known:
                    self._learn(key, kind)
                if way == _RECENT:
                    if time > times.get(key, 0.0):
                        values[key], times[key] = value, time
                else:
                    before = values.get(key)
                    values[key] = value if before is None else _COMBINE[way](before, value)
        return values

    def _learn(self, key: str, kind: str) -> None:
        """Parse a key that has not been seen before: the metric's name, the line's name, the labels, the help text."""
        metric_name, name, labels, text = json.loads(key)
        metric = self._metrics.get(metric_name)
        if metric is None:
            metric = self._metrics[metric_name] = _Metric(metric_name, kind, text)
        if kind == "histogram":
            _learn_part(metric, metric_name, name, labels, key)
        else:
            metric.starts[key] = line_start(name, labels)
        self._known.add(key)


def _learn_part(metric: _Metric, metric_name: str, name: str, labels: dict[str, str], key: str) -> None:
    bound = labels.pop("le", None)
    count_start = line_start(f"{metric_name}_count", labels)
    series = metric.series.setdefault(count_start, _Series(count_start))
    if bound is None:
        series.sum_key, series.sum_start = key, line_start(name, labels)
    else:
        upto = math.inf if bound == "+Inf" else float(bound)
        # Written as the files have it, which is as Prometheus wants it.
        insort(series.buckets, _Bucket(upto, key, line_start(name, {**labels, "le": bound})))


def _histogram_lines(series: _Series, values: dict[str, float]) -> Iterator[str]:
    below = 0.0
    for _, key, start in series.buckets:
        below += values[key]
        yield line(start, below)
    yield line(series.count_start, below)
    if series.sum_key:
        yield line(series.sum_start, values[series.sum_key])


def _entries(path: Path, *, may_vanish: bool) -> Iterator[tuple[str, float, float]]:
    """Key, value and time of each entry. The file of a process that has just ended may be gone."""
    try:
        read: Any = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        if may_vanish:
            return
        raise
    for key, value, time, _ in read:
        yield key, value, time
