"""What a projection is: a name, a version, the kinds it reads, the tables it owns, and `apply`.

A projection is a pure function of the events, in order: the same events make the same tables, whether
they come one at a time or all at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_origin

import msgspec

from tallystick.ledger.event import Event

from .errors import BadProjection

if TYPE_CHECKING:
    from .tables import Tables

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: Names that SQLite, FTS5 and the engine use for tables of their own.
_TAKEN: Final = re.compile(r"(?:sqlite|tally)_.*|.*_fts(?:_(?:data|idx|content|docsize|config))?")
_NO_COLUMNS: Final = frozenset({"rowid", "oid", "rank"})
#: What a column may hold, and the SQL type that it is declared with. None is allowed everywhere but in keys.
COLUMN_TYPES: Final[Mapping[Any, str]] = {
    int: "INTEGER",
    bool: "INTEGER",
    float: "REAL",
    str: "TEXT",
    bytes: "BLOB",
    dict: "TEXT",
    list: "TEXT",
}
#: Values of `how`: what of the body an event is given with.
JSON: Final = Any


class Table(msgspec.Struct, frozen=True):
    """A table of a projection.

    columns: name to type: int (64 bits), float, str, bytes, bool (stored as 0 or 1), dict or list (stored
        as JSON text).
    pk: the primary key: a column, or several.
    indexes: columns, or tuples of columns, to look rows up by.
    search: text columns for full text search.
    seq, at, session: columns that say, of a row found by searching, which event to look at, when that
        was (microseconds since 1970 UTC) and in which session; where they are not given, columns `seq`,
        `at` and `session_id` are taken, if there are.
    """

    columns: Mapping[str, type]
    pk: str | tuple[str, ...]
    indexes: Sequence[str | tuple[str, ...]] = ()
    search: Sequence[str] = ()
    seq: str | None = None
    at: str | None = None
    session: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return (self.pk,) if isinstance(self.pk, str) else tuple(self.pk)

    @property
    def indexed(self) -> list[tuple[str, ...]]:
        """The columns of each index, each once."""
        groups = ((index,) if isinstance(index, str) else tuple(index) for index in self.indexes)
        return list(dict.fromkeys(groups))

    @property
    def by_integer(self) -> bool:
        """Whether the primary key is one integer, which SQLite then takes as the row's number."""
        return len(self.key) == 1 and self.columns[self.key[0]] is int

    @property
    def rowid(self) -> str:
        """The column that numbers the rows for the full text index."""
        return self.key[0] if self.by_integer else "rowid"

    def place(self, what: str, column: str) -> str | None:
        """The column that says where (`seq`, `at`, `session`) a row belongs, or None."""
        named: str | None = getattr(self, what)
        return named or (column if column in self.columns else None)


class Projection:
    """A read model. Subclass it, set the class attributes, write `apply`.

    name: unique among the projections of a views file.
    version: raise it whenever `apply` gives other rows than before; the tables are then built anew.
    kinds: the kinds of events to apply: exact, or globs such as `order.*`; default all. As a mapping it
        also says how their bodies are wanted: `Any` for plain JSON, a `msgspec.Struct` type for a checked
        and decoded one (a body that does not fit is skipped and counted), None if `apply` looks at neither
        body nor meta, which is the fastest and makes erasures harmless.
    stream_prefix: only events of streams that begin so.
    tables: name to Table.
    apply_erased: whether events whose bodies were erased are applied, with `event.body` None; else they
        are left out, as if they had never been. Without effect where bodies are not wanted.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    kinds: ClassVar[Sequence[str] | Mapping[str, Any]] = ("*",)
    stream_prefix: ClassVar[str] = ""
    tables: ClassVar[Mapping[str, Table]]
    apply_erased: ClassVar[bool] = False

    def apply(self, event: Event, tables: Tables) -> None:
        """Put into the tables what the event says. Called for every event of `kinds`, in order of seq."""
        raise AssertionError("no projection without `apply` passes check_projections")

    def forget(self, stream: str, tables: Tables) -> None:
        """Delete every row that came of the stream's events; they will be applied again.

        To be defined where each row comes of events of one stream only: when a body was erased, its
        stream alone is then derived again. Without it the whole projection is.
        """
        raise AssertionError("called only where it is defined: see `forgets`")

    # -- for the engine ------------------------------------------------------------------

    @property
    def forgets(self) -> bool:
        """Whether the projection defines `forget`."""
        return type(self).forget is not Projection.forget

    def how(self, kind: str) -> tuple[bool, Any]:
        """Whether events of a kind are applied, and how their bodies are wanted."""
        return how(self.wanted(), kind)

    def wanted(self) -> Mapping[str, Any]:
        """`kinds` as a mapping."""
        return self.kinds if isinstance(self.kinds, Mapping) else dict.fromkeys(self.kinds, JSON)

    def bodies(self) -> dict[str, bool]:
        """The kinds, and whether their bodies are wanted, as kept in the views file."""
        return {kind: wanted is not None for kind, wanted in self.wanted().items()}

    def fingerprint(self) -> str:
        """A digest of what the tables look like and which events go into them."""
        tables = {
            name: {
                "columns": [(column, kind.__name__) for column, kind in table.columns.items()],
                "pk": table.key,
                "indexes": list(table.indexes),
                "search": list(table.search),
            }
            for name, table in self.tables.items()
        }
        kinds = {kind: getattr(wanted, "__name__", str(wanted)) for kind, wanted in self.wanted().items()}
        said = msgspec.json.encode([tables, kinds, self.stream_prefix, self.apply_erased], order="sorted")
        return hashlib.sha256(said).hexdigest()[:32]


def how(wanted: Mapping[str, Any], kind: str) -> tuple[bool, Any]:
    """Whether a kind is among those wanted, and how: an exact kind before the first glob that matches."""
    if kind in wanted:
        return True, wanted[kind]
    for pattern, value in wanted.items():
        if fnmatchcase(kind, pattern):
            return True, value
    return False, None


def check_projections(projections: Sequence[Projection]) -> dict[str, Projection]:
    """The projections by name. Raises BadProjection if one, or two together, cannot be built."""
    found: dict[str, Projection] = {}
    owners: dict[str, str] = {}
    for projection in projections:
        if not isinstance(projection, Projection):
            raise BadProjection(repr(projection), "is no Projection; give objects, not classes")
        name = getattr(projection, "name", None)
        _check_name(f"projection {type(projection).__name__}", name)
        assert isinstance(name, str)
        if name in found:
            raise BadProjection(f"projection {name!r}", "is given twice")
        found[name] = projection
        _check_definition(name, projection)
        for table in projection.tables:
            if table in owners:
                raise BadProjection(f"table {table!r}", f"belongs to {owners[table]!r} and to {name!r}")
            owners[table] = name
    return found


def _check_definition(name: str, projection: Projection) -> None:
    where = f"projection {name!r}"
    if type(projection).apply is Projection.apply:
        raise BadProjection(where, "defines no `apply`")
    version = projection.version
    if type(version) is not int or not 0 <= version < 1 << 63:
        raise BadProjection(where, f"its version {version!r} is no whole number")
    if isinstance(projection.kinds, str) or not projection.kinds:
        raise BadProjection(where, "kinds must be a list of kinds or patterns, or a mapping of them")
    for kind, wanted in projection.wanted().items():
        if not isinstance(kind, str):
            raise BadProjection(where, f"the kind {kind!r} is no string")
        struct = isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)
        if not (wanted is None or wanted is JSON or struct or get_origin(wanted) is not None):
            raise BadProjection(where, f"the body of {kind!r} must be Any, None or a msgspec.Struct type")
    tables = getattr(projection, "tables", None)
    if not isinstance(tables, Mapping) or not tables:
        raise BadProjection(where, "it has no tables")
    for table, definition in tables.items():
        _check_name(f"{where}, table {table!r}", table)
        if _TAKEN.fullmatch(table):
            raise BadProjection(f"{where}, table {table!r}", "names like this are taken")
        if not isinstance(definition, Table):
            raise BadProjection(f"{where}, table {table!r}", "is no Table")
        _check_table(f"{where}, table {table!r}", definition)


def _check_table(where: str, table: Table) -> None:
    for column, kind in table.columns.items():
        _check_name(f"{where}, column {column!r}", column)
        if column in _NO_COLUMNS:
            raise BadProjection(f"{where}, column {column!r}", "SQLite means something else by this name")
        if kind not in COLUMN_TYPES:
            allowed = ", ".join(allowed.__name__ for allowed in COLUMN_TYPES)
            raise BadProjection(f"{where}, column {column!r}", f"its type must be one of {allowed}")
    named = {"pk": [table.key], "indexes": table.indexed, "search": [tuple(table.search)]}
    named["seq, at, session"] = [tuple(c for c in (table.seq, table.at, table.session) if c is not None)]
    for what, groups in named.items():
        for column in (column for group in groups for column in group):
            if column not in table.columns:
                raise BadProjection(where, f"{what} names the column {column!r}, which it does not have")
        if what != "seq, at, session" and any(len(set(group)) < len(group) for group in groups):
            raise BadProjection(where, f"{what} names a column twice")
    if not table.key or any(table.columns[column] in (dict, list, float) for column in table.key):
        raise BadProjection(where, "its primary key must be of int, str, bytes or bool columns")
    if any(table.columns[column] is not str for column in table.search):
        raise BadProjection(where, "only columns of type str can be searched")


def _check_name(where: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadProjection(
            where, f"{name!r} is no name: use lower-case letters, digits and _, at most 63, a letter first"
        )
