"""The SQLite store: one file, opened with apsw alone.

connection.py opens and refuses files, store.py keeps rows, doctor.py examines a file's health.
"""

from .store import Durability, SQLiteStore

__all__ = ["Durability", "SQLiteStore"]
