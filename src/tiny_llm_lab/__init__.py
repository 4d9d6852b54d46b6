"""The equipment: what the course supplies and nobody is asked to write."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The root folder of the clone, the one that holds course.toml."""
