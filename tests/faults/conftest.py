"""The scenarios of this folder share one pool for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.side_by_side import Scenarios


@pytest.fixture(scope="session")
def scenarios(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    """All scenarios that this run has chosen, under way."""
    functions: list[Any] = [getattr(item, "function", None) for item in request.session.items]
    chosen = [function.scenario for function in functions if hasattr(function, "scenario")]
    base = tmp_path_factory.mktemp("scenarios")

    def folder(name: str) -> Path:
        made = base / name
        made.mkdir()
        return made

    running = Scenarios(chosen, folder)
    yield running
    running.close()
