"""What a process has used, read from /proc."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Final, NamedTuple

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """CPU seconds so far and resident memory now, of a process and its children together."""

    cpu_s: float
    rss_mib: float
    rss_peak_mib: float


def used(pid: int) -> Used:
    """What a process and its living descendants have used."""
    members = family(pid)
    return Used(
        sum(map(_cpu_s, members)),
        sum(_memory_mib(member, "VmRSS") for member in members),
        sum(_memory_mib(member, "VmHWM") for member in members),
    )


class Others:
    """Watches what programs outside of the benchmark take from the machine, from its making on."""

    def __init__(self, *pids: int) -> None:
        """`pids` are the benchmark's servers; wrk and this process count by themselves."""
        self._pids = pids
        self._began_at = time.monotonic()
        self._busy_s, self._ours_s = _busy_s(), self._of_ours_s()

    def share(self) -> float:
        """Their share of all cores so far, 0 to 1."""
        cores_s = (time.monotonic() - self._began_at) * (os.cpu_count() or 1)
        foreign_s = (_busy_s() - self._busy_s) - (self._of_ours_s() - self._ours_s)
        return max(0.0, foreign_s / cores_s)

    def _of_ours_s(self) -> float:
        own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        here_s = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
        return here_s + sum(used(pid).cpu_s for pid in self._pids)


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            members += [int(child) for child in children.read_text().split()]
    return members


def _busy_s() -> float:
    # user, nice, system, idle, iowait, irq, softirq, steal, of all cores together
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / _TICKS_A_SECOND


def _cpu_s(pid: int) -> float:
    # The command, second field, may hold blanks and brackets: counted from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def _memory_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0
