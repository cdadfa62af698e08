"""docs/gateway.md: its Python is run, and what it names exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from tallystick.recorders.gateway.policy import STARTER_POLICY, PolicyDocument
from tallystick.recorders.gateway.request import DecisionRequest
from tallystick.recorders.gateway.stages import GATEWAY_REASONS, STAGES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"
TEXT = PAGE.read_text("utf-8")


def test_the_python_is_run(tmp_path: Path) -> None:
    shutil.copy(STARTER_POLICY, tmp_path / "policy.yml")
    blocks = re.findall(r"```python\n(.*?)```\n", TEXT, re.DOTALL)
    assert len(blocks) == 3
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_every_field_of_a_request_and_of_a_policy_is_in_a_table() -> None:
    cells = set(re.findall(r"`([a-z_.]+)`", "".join(re.findall(r"^\|.*$", TEXT, re.MULTILINE))))

    def fields(struct: Any) -> set[str]:
        return {field.name for field in msgspec.structs.fields(struct)}

    assert fields(DecisionRequest) <= cells
    assert fields(PolicyDocument) - {"schema_version", "extensions"} <= cells
    assert all(f"`{name}`" in TEXT for name in [*GATEWAY_REASONS, *STAGES])
