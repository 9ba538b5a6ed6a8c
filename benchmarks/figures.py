"""How measured figures are written: as JSON, and with few digits."""

import json
import sys
from pathlib import Path
from typing import Any


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes figures as JSON, or prints them where the system refuses, and ends."""
    text = json.dumps(found, indent=2) + "\n"
    try:
        path.write_text(text)
    except OSError as error:
        # They took long to make.
        print(text)
        sys.exit(f"cannot write {path}: {error.strerror}; the figures are above")


def number(value: float) -> str:
    """Writes a figure with three digits, and all of its whole part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
