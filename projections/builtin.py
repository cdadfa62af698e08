"""The projections that every views file holds."""

from __future__ import annotations

from typing import Final

from .decisions import Decisions
from .executions import Executions
from .memory import MemoryItems
from .projection import Projection
from .sessions import Sessions
from .streams import Streams

BUILT_IN: Final[tuple[Projection, ...]] = (Sessions(), Executions(), Decisions(), MemoryItems(), Streams())
