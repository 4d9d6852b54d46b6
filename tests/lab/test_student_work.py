"""What a student has written: it is found, and never overwritten."""

import pytest
from synthetic_course import add_extending_day, edit

from tiny_llm_lab.course.manifest import Course, CourseError
from tiny_llm_lab.course.packages import read_package
from tiny_llm_lab.course.student_work import is_begun, write_skeleton, written_symbols


@pytest.mark.parametrize(
    ("file", "old", "new", "work"),
    [
        (
            "basics.py",
            'raise NotImplementedError("Week 1 Day 1, Task 1: Double")',
            "return 2 * x",
            "basics.double",
        ),
        ("basics.py", "import math", "import math\n\ndef helper():\n    return 1", "basics.helper"),
        ("basics.py", "import math", "import math\n\ndef helper(:", "basics.py"),
        ("cpp/add.cpp", "// TODO Week 1 Day 2, Task 3: Add in C++", "return a;", "cpp/add.cpp#add"),
        ("cpp/add.cpp", "// END SOLUTION", "", "cpp/add.cpp#add"),
    ],
)
def test_a_students_work_is_never_overwritten(
    course: Course, file: str, old: str, new: str, work: str
) -> None:
    course = edit(course, f"src/tiny_llm/{file}", old, new)
    before = read_package(course.student)
    assert written_symbols(course) == [work]
    with pytest.raises(CourseError, match="never overwritten"):
        write_skeleton(course)
    assert read_package(course.student) == before


def test_a_task_is_begun_once_one_of_its_stubs_is_gone(course: Course) -> None:
    assert [task.id for task in course.tasks if is_begun(course, task)] == []
    course = edit(
        course, "src/tiny_llm/basics.py", 'raise NotImplementedError("Week 1 Day 2', 'print("'
    )
    assert [task.id for task in course.tasks if is_begun(course, task)] == ["1.2.1", "1.2.2"]
    edit(course, "src/tiny_llm/cpp/add.cpp", "// TODO", "return a + b; // TODO")
    assert is_begun(course, course.task("1.2.3"))
    (course.student / "notes.pdf").write_bytes(b"\xff\x00")
    (course.student / "shapes.py").write_bytes(b"class Square:\x00\n")
    assert is_begun(course, course.task("1.1.2"))
    assert not is_begun(course, course.task("1.1.1"))


def test_a_task_that_only_extends_is_begun_once_that_is_written(course: Course) -> None:
    course = add_extending_day(course)
    task = course.task("1.3.1")
    stub = 'raise NotImplementedError("Week 1 Day 1, Task 2: Squares")'
    side = '"""Keep the side."""\n        '
    edit(course, "src/tiny_llm/shapes.py", side + stub, side + "self.side = side")
    assert not is_begun(course, task)
    sides = '"""Two sides."""\n        '
    edit(course, "src/tiny_llm/shapes.py", sides + stub, sides + "return 2 * self.side")
    assert is_begun(course, task)
