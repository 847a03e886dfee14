"""What the figures were taken on. Says nothing that would identify a machine or a person."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.process import ROOT


def machine() -> dict[str, str | int | float]:
    """Return processor, memory, versions and revision."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if re.search(rf"\b{flag}\b", info)]
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cpu_flags": " ".join(flags),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("onnxruntime", "faiss-cpu", "grpcio", "numpy", "tokenizers")},
        "revision": revision(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def slug() -> str:
    """Return a short name of this kind of machine for a file: processor and cores."""
    words = re.sub(r"\(.*?\)|@.*|processor|cpu", " ", str(machine()["cpu"]), flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{words} {machine()['cores']}c".lower()).strip("-")


def revision() -> str:
    """Return the commit that is measured, marked where files differ from it; empty outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - whatever git there is
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    try:
        # The results themselves, written by the last run, are no change of what is measured.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except OSError:
        return ""
