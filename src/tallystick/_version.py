"""The version, in its one place: the build, the public API and `tally --version` read it here."""

__version__ = "0.1.0"
