"""The SQLite store: one file, opened with apsw alone.

connection.py opens and refuses files, tail.py holds a log against the head kept beside it, store.py
keeps rows, doctor.py examines a file's health and surroundings.py that of the place it lies in.
"""

from .store import Durability, SQLiteStore

__all__ = ["Durability", "SQLiteStore"]
