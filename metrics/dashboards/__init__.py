"""The Grafana dashboards, as code. `make dashboards` writes them to `metrics/grafana/`."""

from __future__ import annotations

import json
from typing import Final

from metrics.dashboards.counterparties import COUNTERPARTIES
from metrics.dashboards.outbox import OUTBOX
from metrics.dashboards.overview import OVERVIEW
from metrics.dashboards.panels import Json
from metrics.dashboards.payments import PAYMENTS
from metrics.dashboards.runtime import RUNTIME

DASHBOARDS: Final[tuple[Json, ...]] = (OVERVIEW, PAYMENTS, COUNTERPARTIES, OUTBOX, RUNTIME)


def files() -> dict[str, str]:
    """What belongs into the folder: the text of each file, by its name."""
    return {f"{each['uid']}.json": json.dumps(each, indent=2) + "\n" for each in DASHBOARDS}
