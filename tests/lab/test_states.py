"""The states of a student, and the gates that run the graded tests on them."""

from pathlib import Path

import pytest
from synthetic_course import add_extending_day, edit

from tiny_llm_lab.course import states
from tiny_llm_lab.course.graded_tests import Outcome
from tiny_llm_lab.course.manifest import Course
from tiny_llm_lab.course.packages import read_package
from tiny_llm_lab.course.skeleton import build_package
from tiny_llm_lab.course.states import check_last_state, check_skeleton, check_state, write_state

TESTS_1 = "tests/test_week_1_day_1.py"
TESTS_2 = "tests/test_week_1_day_2.py"


def test_a_state_is_a_package(course: Course, tmp_path: Path) -> None:
    day = course.day(1, 1)
    write_state(course, day, tmp_path / "state")
    assert read_package(tmp_path / "state" / "tiny_llm") == build_package(course, day)


def test_all_gates_pass_on_a_sound_course(course: Course) -> None:
    outcomes: list[Outcome] = []
    assert check_skeleton(course) == []
    assert check_last_state(course) == []
    assert check_state(course, None, outcomes.append) == []
    assert [outcome.result for outcome in outcomes] == ["failed"] * 7
    assert outcomes[0] == Outcome(
        f"{TESTS_1}::test_task_1_twice[1]",
        "failed",
        "NotImplementedError",
        "Week 1 Day 1, Task 1: Double",
        stub=True,
    )
    outcomes.clear()
    assert check_state(course, course.day(1, 1), outcomes.append) == []
    assert [outcome.result for outcome in outcomes] == ["passed"] * 4 + ["failed"] * 3
    outcomes.clear()
    assert check_state(course, course.day(1, 2), outcomes.append) == []
    assert [outcome.result for outcome in outcomes] == ["passed"] * 3


def test_all_gates_pass_on_a_course_with_extended_symbols(course: Course) -> None:
    course = add_extending_day(course)
    assert check_skeleton(course) == []
    assert check_last_state(course) == []
    for through in (None, *course.days):
        assert check_state(course, through) == []


@pytest.mark.parametrize(
    ("tests", "old", "new", "test"),
    [
        (TESTS_1, "[1, 2]", "[999]", "test_task_1_twice[999]"),
        (
            TESTS_2,
            "basics.power(2, 1) == 2",
            "basics.power(2, 1) * basics.double(999) == 3996",
            "test_task_3_after_the_powers",
        ),
    ],
)
def test_an_earlier_test_that_fails_once_a_symbol_is_extended_is_noticed(
    course: Course, tests: str, old: str, new: str, test: str
) -> None:
    course = edit(add_extending_day(course), tests, old, new)
    assert check_state(course, course.day(1, 2)) == []
    (problem,) = check_state(course, course.day(1, 3))
    assert problem.startswith(f"{tests}::{test} fails (AssertionError: ")
    assert problem.endswith(" on the state after Week 1 Day 3.")


BAD_TESTS = """\
import pytest
from solution import basics, shapes


@pytest.fixture
def square():
    return shapes.Square(3)


class CheckFailure(AssertionError):
    pass


def test_task_1_that_fails_as_it_should():
    assert basics.double(3) == 6


def test_task_1_whose_check_explains_the_stub():
    raise CheckFailure("double(3) raised NotImplementedError")


def test_task_1_that_tests_nothing():
    pass


def test_task_1_that_skips():
    pytest.skip("later")


def test_task_1_of_a_name_that_does_not_exist():
    assert basics.triple(2) == 6


def test_task_1_that_expects_no_stub():
    with pytest.raises(ValueError):
        pass


def test_task_2_with_a_fixture_that_fails(square):
    assert square.area == 9
"""


def test_tests_that_do_not_fail_on_their_stubs_are_noticed(course: Course) -> None:
    (course.root / TESTS_1).write_text(BAD_TESTS)
    expected = [
        "test_task_1_that_tests_nothing passes",
        "test_task_1_that_skips is skipped (Skipped: later)",
        "test_task_1_of_a_name_that_does_not_exist fails (AttributeError: module "
        "'tiny_llm.basics' has no attribute 'triple')",
        "test_task_1_that_expects_no_stub fails (Failed: DID NOT RAISE ValueError)",
        "test_task_2_with_a_fixture_that_fails ends in an error (NotImplementedError: "
        "Week 1 Day 1, Task 2: Squares)",
    ]
    assert check_state(course, None) == [
        f"{TESTS_1}::{problem} on the untouched skeleton, "
        "but should fail by a stub's error or by CheckFailure."
        for problem in expected
    ]


def test_a_crash_is_noticed(course: Course) -> None:
    crash = "import os\n    os._exit(3)"
    course = edit(course, TESTS_1, "assert shapes.Square(3).area == 9", crash)
    problems = check_state(course, None)
    assert len(problems) == 5
    assert problems[0] == (
        f"{TESTS_1}::test_task_2_area ends in an error (the tests' process ended with exit code 3 "
        "before this test was done) on the untouched skeleton, "
        "but should fail by a stub's error or by CheckFailure."
    )


def test_a_file_that_cannot_be_imported_is_noticed(course: Course) -> None:
    course = edit(course, TESTS_1, "import pytest\n", "import pytest\nimport no_such_module\n")
    assert check_state(course, None) == [
        f"{TESTS_1} ends in an error (ModuleNotFoundError: No module named 'no_such_module') "
        "on the untouched skeleton, but should fail by a stub's error or by CheckFailure."
    ]


def test_a_test_that_fails_though_its_day_is_done_is_noticed(course: Course) -> None:
    # Day 1's test needs what is only written on day 2.
    course = edit(course, TESTS_1, "basics.double(x) == 2 * x", "basics.power(x, 1) == x")
    assert check_state(course, course.day(1, 1)) == [
        f"{TESTS_1}::test_task_1_twice[{x}] fails (NotImplementedError: Week 1 Day 2, Tasks 1 and "
        "2) on the state after Week 1 Day 1."
        for x in (1, 2)
    ]


def test_a_test_that_passes_before_its_day_is_noticed(course: Course) -> None:
    # It fails on the untouched skeleton, but needs nothing of day 2.
    course = edit(course, TESTS_2, "basics.power(2, 1) == 2", "basics.double(1) == 2")
    assert check_state(course, None) == []
    assert check_state(course, course.day(1, 1)) == [
        f"{TESTS_2}::test_task_3_after_the_powers passes on the state after Week 1 Day 1, "
        "but should fail by a stub's error or by CheckFailure."
    ]


def test_a_task_without_tests_is_noticed(course: Course) -> None:
    course = edit(course, TESTS_2, "def test_task_3", "def do_not_test_task_3")
    assert check_state(course, None) == ["No test of task 1.2.3 ran on the untouched skeleton."]


def test_a_skeleton_that_is_not_the_generated_one_is_noticed(course: Course) -> None:
    course = edit(course, "src/tiny_llm_ref/basics.py", "Twice `x`.", "The double of `x`.")
    assert check_skeleton(course) == [
        "src/tiny_llm/basics.py is not what is generated from the reference."
    ]


def test_a_students_work_is_not_compared(course: Course) -> None:
    stub = 'raise NotImplementedError("Week 1 Day 1, Task 1: Double")'
    course = edit(course, "src/tiny_llm/basics.py", stub, "return clamp(x + x)")
    assert check_skeleton(course) == []


def test_a_skeleton_that_gives_a_solution_away_is_noticed(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_stubs(course: Course) -> dict[str, str]:
        return read_package(course.reference)

    monkeypatch.setattr(states, "build_package", without_stubs)
    assert (
        "The skeleton holds a line of the solution, in basics.py: return clamp(x + x)"
        in check_skeleton(course)
    )
