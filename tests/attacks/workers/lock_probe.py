"""Try to take a ledger file for itself alone, as only the sole user of a file can; say how it went."""

import sqlite3
import sys

db = sqlite3.connect(sys.argv[1], timeout=0)
try:
    mode = db.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    print("taken" if mode == "delete" else "locked")
except sqlite3.OperationalError as error:
    print("locked" if "locked" in str(error) else error)
finally:
    db.close()
