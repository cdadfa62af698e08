"""Full text search over every table that declares columns to search."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .projection import Table

SEARCH_LIMIT: Final = 20
#: What a snippet shows around a match.
MARK: Final = ("[", "]")
_ELLIPSIS: Final = "…"
_SNIPPET_WORDS: Final = 16
#: What is beyond is not looked for: FTS5 takes seconds over thousands of words.
_QUERY_CHARACTERS_MAX: Final = 1000
_WORDS_MAX: Final = 40
#: What of a row says where it belongs, and the columns that say so if the table names none.
_PLACES: Final = (("seq", "seq"), ("at", "at"), ("session", "session_id"))


class SearchHit(msgspec.Struct, frozen=True):
    """A row that was found.

    table, key: the row, by its primary key (a list if that has several columns). seq: the event to look at.
    at: when that was, microseconds since 1970 UTC. session: the session it belongs to. Each of the
    three is None where the table does not say. snippet: the text around the match, matches in [brackets].
    """

    table: str
    key: Any
    seq: int | None
    at: int | None
    session: str | None
    snippet: str


def search(con: sqlite3.Connection, tables: Mapping[str, Table], text: str, limit: int) -> list[SearchHit]:
    """The rows that match, best first.

    Ranks of different tables cannot be compared (BM25 depends on the other rows), so the best of each
    table come first, the newest of them before the others, then the second of each, and so on.
    """
    text = text[:_QUERY_CHARACTERS_MAX].replace("\0", " ").encode("utf-8", "replace").decode()
    for query in (text, _words(text), _phrase(text)):
        try:
            found = [
                (place, hit)
                for name, table in tables.items()
                for place, hit in enumerate(_search_table(con, name, table, query, limit))
            ]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            continue  # not the syntax of FTS5, or more than its parser takes: look for it as it stands
        found.sort(key=lambda item: (item[0], -(item[1].at or 0)))
        return [hit for _, hit in found[: max(limit, 0)]]
    return []


def _search_table(
    con: sqlite3.Connection, name: str, table: Table, query: str, limit: int
) -> list[SearchHit]:
    if not query.strip():
        return []
    places = [table.place(what, usual) for what, usual in _PLACES]
    columns = [f'"{column}"' if column else "NULL" for column in (*table.key, *places)]
    rows = con.execute(
        f"SELECT {', '.join(columns)}, found FROM (SELECT rowid AS place, rank AS score,"
        f' snippet("{name}_fts", -1, ?, ?, ?, {_SNIPPET_WORDS}) AS found'
        f' FROM "{name}_fts" WHERE "{name}_fts" MATCH ? ORDER BY rank, rowid DESC LIMIT ?)'
        f' CROSS JOIN "{name}" ON "{name}"."{table.rowid}" = place ORDER BY score, place DESC',
        (*MARK, _ELLIPSIS, query, max(limit, 0)),
    ).fetchall()
    hits = []
    for row in rows:
        *key, seq, at, session, snippet = row
        hits.append(SearchHit(name, key[0] if len(key) == 1 else key, seq, at, session, snippet))
    return hits


def _words(text: str) -> str:
    """A query for text that holds all these words; a word is what stands between white space."""
    words = re.findall(r"\S+", text)[:_WORDS_MAX]
    return " ".join(_phrase(word) for word in words)


def _phrase(text: str) -> str:
    """A query for the text as it stands (https://www.sqlite.org/fts5.html, section 3.1)."""
    return '"' + text.replace('"', '""') + '"'
