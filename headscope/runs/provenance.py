"""What a number was made with: versions, commit, machine, time. No host name, no user name."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import headscope

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "tokenizers", "transformer-lens", "numpy", "scipy", "safetensors", "gguf")
_SOURCES = ("headscope", "probes", "circuits", "app")
_GIT_TIMEOUT_S = 20


def utc_now() -> str:
    """The time now, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of each installed package that can change a number."""
    found = {"python": platform.python_version(), "headscope": headscope.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            logger.debug("%s is not installed", package)
    return found


def source_commit() -> str | None:
    """Git commit of the checkout that this code runs from; None when it runs from an installed wheel.

    ``+dirty`` is added when the source of the four packages differs from the commit.
    """
    root = Path(__file__).resolve().parents[2]
    if _git(root, "rev-parse", "--show-prefix") != "":
        return None  # not the top of a checkout: an installed copy, perhaps inside another project
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    changed = _git(root, "status", "--porcelain", "--", *(name for name in _SOURCES if (root / name).is_dir()))
    return f"{commit}+dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, str | int | float]:
    """Platform, processor, logical cores, memory, and the accelerator if torch is in use already."""
    facts: dict[str, str | int | float] = {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "logical_cores": os.cpu_count() or 1,
    }
    if memory := _memory_bytes():
        facts["memory_gb"] = round(memory / 1e9, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = str(torch.cuda.get_device_name())
    return facts


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory_bytes() -> int | None:
    """Largest resident size this process has had; None where the platform does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
