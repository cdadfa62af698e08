"""The most memory that this process ever had resident, for scripts that tests run."""

import resource
import sys
from pathlib import Path


def peak_kib() -> int:
    """In KiB. `getrusage` counts what the process was forked from, so the kernel's own figure comes first."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak
