"""`docs/verify_ledger.py` in this process, loaded once: it was written from the format page alone."""

from __future__ import annotations

import contextlib
import io
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from loading import load

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "verify_ledger.py"


@cache
def verifier() -> Any:
    """The script as a module."""
    return load(SCRIPT, "second_verifier")


def look(path: str | Path) -> tuple[int, str]:
    """Its exit status for a file, and the line that it prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [SCRIPT.name, str(path)])
        status: int = verifier().main()
    return status, out.getvalue().strip()
