"""The doctor: it has an answer even where nothing can be imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_llm_lab import PROJECT_ROOT, doctor

SCRIPT = PROJECT_ROOT / "scripts" / "doctor.py"


def test_a_broken_package_is_a_finding_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlx.py").write_text("raise ImportError('libmlx.so is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "")
    for what in ("nanobind", "metal", "embedded model"):
        expected = f"fix  {what}: cannot be checked: libmlx.so is missing -> {doctor.REINSTALL}"
        assert expected.split() in [line.split() for line in result.stdout.splitlines()]
