"""Hints: one level at a time, remembered."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_course import make_course

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.course.hints import next_hint, show_hint
from tiny_llm_lab.course.manifest import CourseError


def test_levels_come_one_by_one_and_end(tmp_path: Path) -> None:
    course = make_course(tmp_path)
    texts = [getattr(next_hint(course, "1.1.1"), "text", None) for _ in range(5)]
    assert texts == [*course.task("1.1.1").hints, None, None]
    other = next_hint(course, "1.1.2")
    assert other is not None
    assert (other.level, other.text) == (1, "How many sides?")


def test_a_level_can_be_asked_for(tmp_path: Path) -> None:
    course = make_course(tmp_path)
    assert show_hint(course, "1.1.1", 2).text == "double(x) is x + x."
    assert show_hint(course, "1.1.1", 1).level == 1
    following = next_hint(course, "1.1.1")
    assert following is not None
    assert following.level == 3
    for level in (0, 4):
        with pytest.raises(CourseError, match=f"no hint {level} for task 1.1.1: .* 1 to 3"):
            show_hint(course, "1.1.1", level)


@pytest.mark.parametrize("content", ["", "[1]", '{"1.1.1": "x"}', "\x00"])
def test_a_damaged_memory_starts_anew(tmp_path: Path, content: str) -> None:
    course = make_course(tmp_path)
    (tmp_path / ".tiny-llm").mkdir()
    (tmp_path / ".tiny-llm" / "hints.json").write_text(content)
    hint = next_hint(course, "1.1.1")
    assert hint is not None
    assert hint.level == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1.3.9"], "There is no task 9 in week 1 day 3: the tasks are 1, 2 and 3."),
        (["softmax"], "'softmax' is not a task: write week.day.task, such as 1.1.1."),
        (["1.3.1", "--level", "7"], "There is no hint 7 for task 1.3.1: the levels are 1 to 3."),
    ],
)
def test_a_wrong_request_gets_one_sentence(arguments: list[str], message: str) -> None:
    command = [sys.executable, "scripts/hint.py", *arguments]
    result = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message + "\n")
