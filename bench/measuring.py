"""What a process has used, read from /proc."""

from __future__ import annotations

import os
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


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            members += [int(child) for child in children.read_text().split()]
    return members


def _cpu_s(pid: int) -> float:
    # The command, second field, may hold blanks and brackets: counted from its end.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def _memory_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0
