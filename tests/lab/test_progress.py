"""The state of every task, from untouched to done."""

import importlib

import pytest
from synthetic_course import edit

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.course.manifest import Course, Task
from tiny_llm_lab.course.progress import (
    as_json,
    earned_points,
    measure_progress,
)

DOUBLE = 'raise NotImplementedError("Week 1 Day 1, Task 1: Double")'
POWER = 'raise NotImplementedError("Week 1 Day 2, Tasks 1 and 2")'


def test_untouched_tasks_take_no_test_run(course: Course) -> None:
    for day in course.days:
        (course.root / day.tests).unlink()
    progress = measure_progress(course)
    assert [item.status for item in progress] == ["not started"] * 5
    assert earned_points(progress) == 0


def test_passed_failed_and_not_started(course: Course) -> None:
    edit(course, "src/tiny_llm/basics.py", DOUBLE, "return 2 * x")
    # Right for positive powers only.
    edit(course, "src/tiny_llm/basics.py", POWER, "return x**n if n > 0 else 0")
    reported: list[Task] = []
    progress = measure_progress(course, reported.append)
    assert [(item.status, item.passed, item.tests) for item in progress] == [
        ("passed", 2, 2),
        ("not started", 0, 0),
        ("passed", 1, 1),
        ("failed", 0, 1),
        ("not started", 0, 0),
    ]
    assert earned_points(progress) == 25
    assert [task.id for task in reported] == ["1.1.1", "1.1.1", "1.2.1", "1.2.2"]
    assert as_json(progress)["tasks"][3] == {
        "id": "1.2.2",
        "title": "The power 0",
        "status": "failed",
        "points": 1,
        "passed": 0,
        "tests": 1,
    }
    assert as_json(progress)["passed"] == 2
    assert as_json(progress)["total_points"] == 38


def test_a_shared_symbol_that_is_half_written(course: Course) -> None:
    half = "if n == 0:\n        raise NotImplementedError\n    return x**n"
    edit(course, "src/tiny_llm/basics.py", POWER, half)
    assert [item.status for item in measure_progress(course)][2:4] == ["passed", "not started"]


def test_a_task_that_runs_into_another_tasks_stub_says_so(course: Course) -> None:
    (course.student / "shapes.py").write_text((course.reference / "shapes.py").read_text())
    square = measure_progress(course)[1]
    assert (square.status, square.passed, square.tests) == ("failed", 1, 2)
    assert square.needs == "Week 1 Day 1, Task 1: Double"


def test_not_implemented_error_of_a_library_is_a_failure(course: Course) -> None:
    edit(course, "src/tiny_llm/basics.py", DOUBLE, "import codecs\n    codecs.Codec().encode('')")
    assert measure_progress(course)[0].status == "failed"


def test_a_module_that_cannot_be_imported_hides_no_other(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(course, "src/tiny_llm/basics.py", POWER, "return x**n")
    shapes = course.student / "shapes.py"
    shapes.write_text((course.reference / "shapes.py").read_text() + "def foo(:\n")
    progress = measure_progress(course)
    assert [(item.status, item.passed, item.tests) for item in progress] == [
        ("not started", 0, 0),
        ("cannot be tested", 0, 0),
        ("passed", 1, 1),
        ("passed", 1, 1),
        ("not started", 0, 0),
    ]
    monkeypatch.syspath_prepend(PROJECT_ROOT / "scripts")
    progress_command = importlib.import_module("progress")
    progress_command.print_broken_days(course, progress)
    progress_command.print_table(course, progress)
    printed = capsys.readouterr().out
    place = f"src/tiny_llm/shapes.py:{len(shapes.read_text().splitlines())}"
    assert printed.startswith(
        "Day 1.1 cannot be tested.\n"
        "  SyntaxError: invalid syntax\n"
        f"    look at    {place}\n"
        "               def foo(:\n\n"
    )
    assert printed.endswith(f"Next: repair {place}, then run again.\n")


def test_a_skip_is_not_a_pass(course: Course) -> None:
    edit(course, "src/tiny_llm/basics.py", DOUBLE, "return 2 * x")
    edit(
        course,
        "tests/test_week_1_day_1.py",
        "    assert basics.double(x)",
        "    if x == 2:\n        pytest.skip('no GPU')\n    assert basics.double(x)",
    )
    progress = measure_progress(course)
    assert (progress[0].status, progress[0].passed, progress[0].tests) == ("not verified", 1, 2)
    assert earned_points(progress) == 0
