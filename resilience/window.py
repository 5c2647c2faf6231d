"""Counts over the last seconds, in constant memory."""

from __future__ import annotations

_SLICES = 10


class SlidingCounts:
    """Counts of several kinds over the last `window_s`.

    Time is cut into ten slices and the oldest is forgotten as a whole, so what is counted reaches back
    between nine tenths of the window and the whole of it. `now_s` is monotonic and comes from the caller.
    """

    __slots__ = ("_current", "_slice_ends_s", "_slice_s", "_slices", "totals")

    def __init__(self, window_s: float, kinds: int, *, now_s: float) -> None:
        self._slice_s = window_s / _SLICES
        self._slice_ends_s = now_s + self._slice_s
        self._slices = [[0] * kinds for _ in range(_SLICES)]
        self._current = 0
        self.totals = [0] * kinds
        """The sums as of the last `add` or `forget_old`; to be read only."""

    def add(self, kind: int, now_s: float) -> None:
        """Count one of this kind."""
        if now_s >= self._slice_ends_s:
            self._turn(now_s)
        self._slices[self._current][kind] += 1
        self.totals[kind] += 1

    def forget_old(self, now_s: float) -> None:
        """Bring `totals` up to date without counting anything."""
        if now_s >= self._slice_ends_s:
            self._turn(now_s)

    def clear(self) -> None:
        """Forget everything."""
        for counts in (*self._slices, self.totals):
            counts[:] = [0] * len(counts)

    def _turn(self, now_s: float) -> None:
        steps = int((now_s - self._slice_ends_s) / self._slice_s) + 1
        self._slice_ends_s += steps * self._slice_s
        if steps >= _SLICES:
            self.clear()
            return
        for _ in range(steps):
            self._current = (self._current + 1) % _SLICES
            oldest = self._slices[self._current]
            for kind, count in enumerate(oldest):
                self.totals[kind] -= count
                oldest[kind] = 0
