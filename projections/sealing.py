"""Sealing: digests of projections built anew from the events, appended to the ledger that they are of."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tallystick.events import projection as events
from tallystick.ledger.event import NewEvent
from tallystick.ledger.ledger import Ledger

from .digest import ProjectionDigest
from .errors import AlteredViews
from .views import Views, views_of

#: How often stored and rebuilt tables are caught up with each other while somebody appends.
_ATTEMPTS: Final = 5


def seal_projections(
    ledger: Ledger, names: Iterable[str] | None = None, *, views: Views | None = None
) -> list[ProjectionDigest]:
    """Append a `projection.sealed` for each of these projections, or all, caught up; what was sealed.

    What is sealed is built anew from the events, apart: it takes as long as a rebuild, and stored tables
    that were altered are not sealed but refused. views: where they are kept, if not in the views of the
    ledger.

    Raises AlteredViews, BadProjection, ProjectionFailed, and what `Ledger.record` does.
    """
    found = _checked(ledger, views_of(ledger) if views is None else views, names)
    ledger.record(
        [
            NewEvent(
                kind=events.SEALED,
                stream=events.projection_stream(one.name),
                body=events.ProjectionSealed(
                    name=one.name, version=one.version, seq=one.seq, digest=one.digest
                ),
            )
            for one in found
        ]
    )
    return found


def _checked(ledger: Ledger, stored: Views, names: Iterable[str] | None) -> list[ProjectionDigest]:
    """The digests of tables built anew, which the stored ones have as well. Raises AlteredViews."""
    chosen = None if names is None else list(names)
    with (
        tempfile.TemporaryDirectory(prefix="tallystick-seal-") as folder,
        Views(ledger, path=Path(folder) / "anew.views", projections=stored.projections) as anew,
    ):
        found = anew.digests(chosen)
        for _ in range(_ATTEMPTS):
            theirs = stored.digests(chosen)
            if [one.seq for one in theirs] == [one.seq for one in found]:
                break
            found = anew.digests(chosen)  # somebody appends: both go on until they meet
    for one, other in zip(found, theirs, strict=True):
        if one.seq == other.seq and one.digest != other.digest:
            raise AlteredViews(one.name, one.seq)
    return found
