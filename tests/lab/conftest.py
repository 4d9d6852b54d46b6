"""What the tests of the equipment share."""

from pathlib import Path

import pytest
from synthetic_course import make_course

from tiny_llm_lab.course.manifest import Course


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """The course of `synthetic_course`, in a folder of its own."""
    return make_course(tmp_path)
