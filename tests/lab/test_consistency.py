"""The check that manifest, reference, tests and chapters name the same tasks."""

from pathlib import Path

import pytest
from synthetic_course import add_extending_day, edit, make_course

from tiny_llm_lab.course.consistency import check_consistency


def test_a_course_in_step_has_no_problems(tmp_path: Path) -> None:
    assert check_consistency(make_course(tmp_path)) == []


def test_a_course_that_extends_symbols_has_no_problems(tmp_path: Path) -> None:
    assert check_consistency(add_extending_day(make_course(tmp_path))) == []


def test_an_earlier_body_that_no_task_extends_is_noticed(tmp_path: Path) -> None:
    course = add_extending_day(make_course(tmp_path))
    course = edit(course, "course.toml", '["basics.double", ', "[")
    assert check_consistency(course) == [
        "before/week_1_day_3/basics.py belongs to no day that extends anything in it."
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "problems"),
    [
        (
            "course.toml",
            '"All sides are equal.", ',
            "",
            ["Task 1.1.2 needs 3 hints, none of them empty."],
        ),
        ("course.toml", '"How many', '" ", "', ["Task 1.1.2 needs 3 hints, none of them empty."]),
        (
            "course.toml",
            '"shapes.Square"',
            '"shapes.Square", "shapes.Circle"',
            [
                "Task 1.1.2 names Circle, but shapes.py of the reference has no such function, "
                "or no such class with a method to write."
            ],
        ),
        (
            "tests/test_week_1_day_1.py",
            "test_task_1_twice",
            "test_twice",
            [
                "tests/test_week_1_day_1.py: the test test_twice belongs to no task of "
                "Week 1 Day 1; its name must begin with test_task_ and the task's number.",
                "tests/test_week_1_day_1.py has no test of task 1.1.1.",
            ],
        ),
        (
            "tests/test_week_1_day_1.py",
            "def test_task_2_area",
            "def test_task_3_area",
            [
                "tests/test_week_1_day_1.py: the test test_task_3_area belongs to no task of "
                "Week 1 Day 1; its name must begin with test_task_ and the task's number."
            ],
        ),
        (
            "tests/test_week_1_day_1.py",
            "def test_task_2_area():",
            "class TestSquare:\n    pass\n\n\ndef test_task_2_area():",
            [
                "tests/test_week_1_day_1.py: the test TestSquare belongs to no task of "
                "Week 1 Day 1; its name must begin with test_task_ and the task's number."
            ],
        ),
        (
            "tests/test_week_1_day_1.py",
            "def test_task_2_half_perimeter",
            "def test_task_2_area",
            [
                "tests/test_week_1_day_1.py has two tests named test_task_2_area, "
                "of which Python keeps only the last."
            ],
        ),
        (
            "tests/test_week_1_day_1.py",
            "import pytest",
            "import pytest (",
            ["tests/test_week_1_day_1.py, line 1, is not valid Python."],
        ),
        (
            "book/src/week-1-day-1.md",
            "{{#task 1.1.2}}",
            "{{#task 1.1.1}}",
            [
                "book/src/week-1-day-1.md has {{#task 1.1.1}} 2 times instead of once.",
                "book/src/week-1-day-1.md has {{#task 1.1.2}} 0 times instead of once.",
            ],
        ),
        (
            "book/src/week-1-overview.md",
            "Numbers",
            "Numbers\n\n{{#task 1.1.1}}",
            ["book/src/week-1-overview.md has {{#task 1.1.1}}, which is no task of this chapter."],
        ),
        (
            "book/src/SUMMARY.md",
            "week-1-day-1.md",
            "week-1-day-7.md",
            ["book/src/SUMMARY.md does not list week-1-day-1.md."],
        ),
        (
            "book/src/week-1-day-2.md",
            "Powers",
            "Power",
            [
                "book/src/week-1-day-2.md must begin with the line `# Week 1, Day 2: Powers`, "
                "as in course.toml."
            ],
        ),
    ],
)
def test_a_course_out_of_step_is_noticed(
    tmp_path: Path, file: str, old: str, new: str, problems: list[str]
) -> None:
    course = edit(make_course(tmp_path), file, old, new)
    assert check_consistency(course) == problems


def test_missing_and_surplus_files_are_noticed(tmp_path: Path) -> None:
    course = make_course(tmp_path)
    tests = tmp_path / "tests" / "test_week_1_day_2.py"
    tests.rename(tests.with_name("test_week_1_day_3.py"))
    (course.book / "week-1-day-2.md").rename(course.book / "week-1-day-3.md")
    assert check_consistency(course) == [
        "tests/test_week_1_day_2.py, the test file of Week 1 Day 2, is missing.",
        "tests/test_week_1_day_3.py belongs to no day of course.toml.",
        "The chapter book/src/week-1-day-2.md is missing.",
        *(
            f"book/src/week-1-day-3.md has {{{{#task 1.2.{n}}}}}, which is no task of this chapter."
            for n in (1, 2, 3)
        ),
    ]
