"""What ``import headscope`` and ``headscope --help`` load, and what they refuse to start beside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HELP = "from app.cli import main; main()"


def run_python(code: str, *arguments: str, ahead: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with ``ahead`` before everything else on the path."""
    path = os.pathsep.join(str(place) for place in (ahead, ROOT) if place is not None)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def hide(folder: Path, package: str) -> None:
    """Put a package of that name, installed by the distribution ``stranger``, into the folder."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    record = folder / "stranger-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (record / "top_level.txt").write_text(f"{package}\n")


@pytest.mark.parametrize(
    "module", ["headscope", "headscope.heads", "headscope.config", "headscope.runs.index", "app.cli"]
)
def test_importing_loads_no_torch(module: str) -> None:
    done = run_python(f"import sys, {module}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_load_is_found_lazily_and_a_wrong_name_is_not() -> None:
    code = "import headscope as hs; assert 'load' in dir(hs); assert not hasattr(hs, 'lode'); print(hs.load)"
    done = run_python(code)
    assert done.stdout.startswith("<function load"), done.stderr


@pytest.mark.parametrize("package", ["probes", "circuits", "app"])
def test_another_package_of_the_same_name_is_refused_with_what_to_uninstall(package: str, tmp_path: Path) -> None:
    hide(tmp_path, package)
    done = run_python("import headscope", ahead=tmp_path)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ImportError: headscope needs its own package {package!r}")
    assert str(tmp_path / package) in message
    assert "pip uninstall stranger" in message


def test_a_script_of_the_same_name_is_refused_by_its_path(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.touch()
    message = run_python("import headscope", ahead=tmp_path).stderr.strip().splitlines()[-1]
    assert str(script) in message
    assert "rename it" in message


def test_help_answers_in_under_a_second() -> None:
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        done = run_python(HELP, "--help")
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "score" in done.stdout
    assert min(times) < 1.0
