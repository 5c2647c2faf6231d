"""`make dashboards`: write every dashboard, and take away what is none any more."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from metrics.dashboards import files

FOLDER: Final = Path(__file__).parent.parent / "grafana"


def write(folder: Path = FOLDER) -> None:
    """Make the folder hold exactly the dashboards."""
    wanted = files()
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write()
