"""The student's package, as it is derived from the reference."""

import ast

import pytest
from synthetic_course import ADD, BASICS, DAY_3, SHAPES, add_extending_day, edit

from tiny_llm_lab.course.manifest import Course, CourseError, load_course
from tiny_llm_lab.course.packages import read_package
from tiny_llm_lab.course.skeleton import (
    STUDENT_DOCSTRING,
    build_package,
    differences,
    leaked_lines,
    stub_of_another_task,
)
from tiny_llm_lab.course.student_work import write_skeleton, written_symbols

STUBBED_BASICS = '''\
"""Small functions."""

import math

# The largest result.
LIMIT = 1000


def double(x: int) -> int:
    """Twice `x`.

    Args:
        x: any number.
    """
    raise NotImplementedError("Week 1 Day 1, Task 1: Double")


# Powers come on day 2.
def power(x: int, n: int = 2) -> int:
    """`x` to the `n`."""
    raise NotImplementedError("Week 1 Day 2, Tasks 1 and 2")


def clamp(x: int) -> int:
    """At most LIMIT."""
    return min(math.floor(x), LIMIT)
'''

STUBBED_SHAPES = '''\
"""Shapes."""

from .basics import double


class Square:
    """A square."""

    corners: int = 4

    def __init__(self, side: int) -> None:
        """Keep the side."""
        raise NotImplementedError("Week 1 Day 1, Task 2: Squares")

    @property
    def area(self) -> int:
        """The area."""
        raise NotImplementedError("Week 1 Day 1, Task 2: Squares")

    def half_perimeter(self) -> int:
        """Two sides."""
        raise NotImplementedError("Week 1 Day 1, Task 2: Squares")
'''

STUBBED_ADD = """\
int add(int a, int b) {
    // BEGIN SOLUTION add
    // TODO Week 1 Day 2, Task 3: Add in C++
    // END SOLUTION
}
"""


def test_bodies_become_stubs_and_the_rest_stays(course: Course) -> None:
    package = build_package(course)
    assert package == {
        "__init__.py": STUDENT_DOCSTRING + "\n",
        "basics.py": STUBBED_BASICS,
        "shapes.py": STUBBED_SHAPES,
        "cpp/add.cpp": STUBBED_ADD,
    }
    assert package == read_package(course.student)


def test_after_a_day_its_bodies_are_the_reference(course: Course) -> None:
    after_day_1 = build_package(course, course.day(1, 1))
    assert after_day_1["shapes.py"] == SHAPES
    assert "return clamp(x + x)" in after_day_1["basics.py"]
    assert "Week 1 Day 2, Tasks 1 and 2" in after_day_1["basics.py"]
    assert after_day_1["cpp/add.cpp"] == STUBBED_ADD
    after_day_2 = build_package(course, course.day(1, 2))
    assert (after_day_2["basics.py"], after_day_2["cpp/add.cpp"]) == (BASICS, ADD)


def test_three_tasks_in_a_row_are_a_range(course: Course) -> None:
    course = edit(
        course, "course.toml", '["cpp/add.cpp#add"]', '["basics.power", "cpp/add.cpp#add"]'
    )
    assert '"Week 1 Day 2, Tasks 1 to 3"' in build_package(course)["basics.py"]


def test_a_long_message_gets_a_line_of_its_own(course: Course) -> None:
    title = "Double " + "and " * 14 + "again"
    course = edit(course, "course.toml", '"Double"', f'"{title}"')
    assert (
        "    raise NotImplementedError(\n"
        f'        "Week 1 Day 1, Task 1: {title}"\n'
        "    )\n" in build_package(course)["basics.py"]
    )


def test_a_method_can_belong_to_a_later_day_than_its_class(course: Course) -> None:
    course = edit(
        course,
        "course.toml",
        '["cpp/add.cpp#add"]',
        '["shapes.Square.half_perimeter", "cpp/add.cpp#add"]',
    )
    shapes = build_package(course)["shapes.py"]
    assert shapes.count("Week 1 Day 1, Task 2: Squares") == 2
    assert shapes.count("Week 1 Day 2, Task 3: Add in C++") == 1
    after_day_1 = build_package(course, course.day(1, 1))["shapes.py"]
    assert "return self.side * self.side" in after_day_1
    assert "return double(self.side)" not in after_day_1


def test_what_a_later_day_extends_has_its_earlier_body(course: Course) -> None:
    course = add_extending_day(course)
    full_docstring = '''"""Twice `x`.

    Args:
        x: any number.
    """'''
    earlier_docstring = '"""Twice `x`, however large."""'
    skeleton = build_package(course)
    assert skeleton["basics.py"] == STUBBED_BASICS.replace(full_docstring, earlier_docstring)
    assert skeleton["shapes.py"] == STUBBED_SHAPES
    after_day_2 = build_package(course, course.day(1, 2))
    assert after_day_2 == build_package(course, course.day(1, 1)) | {
        "basics.py": BASICS.replace(full_docstring, earlier_docstring)
        .replace("# Adding is cheaper than multiplying.", "# There is no limit yet.")
        .replace("clamp(x + x)", "x + x"),
        "cpp/add.cpp": ADD,
    }
    assert after_day_2["shapes.py"] == SHAPES.replace(
        "        return double(self.side)\n",
        "        # Without `double`.\n"
        "        return self.side + self.side\n"
        "        # Both sides are there.\n",
    )
    after_day_3 = build_package(course, course.day(1, 3))
    assert (after_day_3["basics.py"], after_day_3["shapes.py"]) == (BASICS, SHAPES)


def test_two_days_can_extend_the_same_function(course: Course) -> None:
    course = add_extending_day(course)
    day_4 = DAY_3.replace("number = 3", "number = 4").replace(
        ', "shapes.Square.half_perimeter"', ""
    )
    folder = course.before / "week_1_day_4"
    folder.mkdir()
    (folder / "basics.py").write_text("def double(x: int) -> int:\n    return min(x + x, 900)\n")
    course = edit(course, "course.toml", DAY_3, DAY_3 + day_4)
    bodies = ("    return x + x\n", "    return min(x + x, 900)\n", "    return clamp(x + x)\n")
    for day, body in zip((2, 3, 4), bodies, strict=True):
        basics = build_package(course, course.day(1, day))["basics.py"]
        assert [line in basics for line in bodies] == [line == body for line in bodies]
    assert "however large" in build_package(course)["basics.py"]
    assert "x: any number" in build_package(course, course.day(1, 3))["basics.py"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "week_1_day_3/basics.py",
            "def double",
            "def triple",
            "Task 1.3.1 extends basics.double, "
            "but before/week_1_day_3/basics.py has no such function or method.",
        ),
        (
            "week_1_day_3/basics.py",
            "(x: int)",
            "(x: int, y: int = 0)",
            "before/week_1_day_3/basics.py: the signature of double must be that of the reference, "
            "`def double(x: int) -> int:`, not `def double(x: int, y: int=0) -> int:`.",
        ),
        (
            "week_1_day_3/shapes.py",
            "    def half",
            "    @property\n    def half",
            "before/week_1_day_3/shapes.py: the signature of Square.half_perimeter must be that of "
            "the reference, `def half_perimeter(self) -> int:`, "
            "not `@property def half_perimeter(self) -> int:`.",
        ),
        (
            "week_1_day_3/shapes.py",
            "class Square:",
            "class Square:\n    def area(self):\n        return 4\n",
            "before/week_1_day_3/shapes.py defines Square.area, which no task of that day extends.",
        ),
        (
            "week_1_day_3/basics.py",
            "def double",
            "LIMIT = 3\n\n\ndef double",
            "before/week_1_day_3/basics.py, line 4: "
            "there may only be imports, functions, and classes with methods.",
        ),
        (
            "week_1_day_3/basics.py",
            "def double",
            "def double (:",
            "before/week_1_day_3/basics.py, line 4, is not valid Python.",
        ),
    ],
)
def test_a_wrong_earlier_body_is_refused(
    course: Course, file: str, old: str, new: str, message: str
) -> None:
    course = edit(add_extending_day(course), f"before/{file}", old, new)
    with pytest.raises(CourseError) as caught:
        build_package(course)
    assert str(caught.value) == message


def test_an_extended_symbol_that_does_not_exist_is_refused(course: Course) -> None:
    course = add_extending_day(course)
    edit(course, "before/week_1_day_3/shapes.py", "half_perimeter", "volume")
    course = edit(course, "course.toml", "half_perimeter", "volume")
    with pytest.raises(CourseError, match=r"extends shapes\.Square\.volume, but the reference has"):
        build_package(course)


@pytest.mark.parametrize("file", ["week_1_day_3/more.py", "week_1_day_4/basics.py", "notes.md"])
def test_a_surplus_file_of_earlier_bodies_is_refused(course: Course, file: str) -> None:
    course = add_extending_day(course)
    path = course.before / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(CourseError) as caught:
        build_package(course)
    assert str(caught.value) == f"before/{file} belongs to no day that extends anything in it."


def test_the_stub_of_what_a_task_extends_is_another_tasks(course: Course) -> None:
    course = add_extending_day(course)
    message = "Week 1 Day 1, Task 1: Double"
    assert stub_of_another_task(course, course.task("1.3.1"), message) == message
    assert stub_of_another_task(course, course.task("1.1.1"), message) == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("basics.py", "LIMIT = 1000", "LIMIT = 1000\nSECRET = 7", "SECRET is neither the symbol"),
        ("basics.py", "import math", "import math\n\nmath.pi = 3", "math.pi is neither the symbol"),
        ("basics.py", "import math", "import math\n\nprint(1)", "line 5 is neither the symbol"),
        ("shapes.py", '"""Two sides."""', "pass", "Square.half_perimeter in shapes.py of the"),
        ("shapes.py", "class Square", "class Circle", "Circle is neither the symbol"),
        (
            "shapes.py",
            "    corners: int = 4",
            "    class Corner:\n        def angle(self):\n            return 90",
            "line 9: the class Square may only hold methods and attributes",
        ),
        ("cpp/add.cpp", "// BEGIN", "//BEGIN", "line 2: write `BEGIN SOLUTION name`"),
        ("cpp/add.cpp", "SOLUTION add", "SOLUTION plus", "no line `BEGIN SOLUTION add`"),
        ("cpp/add.cpp", "// END SOLUTION\n", "", "BEGIN SOLUTION without an end"),
        ("cpp/add.cpp", "// BEGIN SOLUTION add\n", "", "END SOLUTION without a beginning"),
        (
            "cpp/add.cpp",
            "}\n",
            "}\n// BEGIN SOLUTION more\n// END SOLUTION\n",
            "more is marked as a solution, but no task names it",
        ),
    ],
)
def test_what_the_skeleton_would_give_away_is_refused(
    course: Course, file: str, old: str, new: str, message: str
) -> None:
    course = edit(course, f"src/tiny_llm_ref/{file}", old, new)
    with pytest.raises(CourseError) as caught:
        build_package(course)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        ("basics.triple", "Task 1.1.2 names triple, but basics.py of the reference has no such"),
        ("shapes.Square.volume", "Task 1.1.2 names Square.volume"),
        ("circles.Circle", "the reference has no file circles.py"),
    ],
)
def test_a_symbol_that_does_not_exist_is_refused(course: Course, symbol: str, message: str) -> None:
    course = edit(course, "course.toml", '["shapes.Square"]', f'["shapes.Square", "{symbol}"]')
    with pytest.raises(CourseError) as caught:
        build_package(course)
    assert message in str(caught.value)


def test_a_skeleton_behind_the_reference_is_noticed(course: Course) -> None:
    assert differences(course) == []
    course = edit(course, "src/tiny_llm_ref/basics.py", "Twice `x`.", "The double of `x`.")
    (course.student / "shapes.py").unlink()
    (course.student / "old.py").write_text('"""A module that is no more."""\n')
    assert differences(course) == [
        "src/tiny_llm/basics.py is not what is generated from the reference.",
        "src/tiny_llm/old.py is not generated from the reference.",
        "src/tiny_llm/shapes.py is missing.",
    ]
    assert written_symbols(course) == []
    (course.student / "old.py").unlink()
    write_skeleton(course)
    assert differences(course) == []


@pytest.mark.parametrize(
    ("file", "leak"),
    [
        ("basics.py", "        return product if rest == 0 else step(product * x, rest - 1)"),
        ("basics.py", "# Adding is cheaper than multiplying."),
        ("shapes.py", "\treturn   double(self.side)"),
        ("cpp/add.cpp", "    int sum_of_both = a + b;"),
    ],
)
def test_a_leaked_line_of_a_solution_is_found(course: Course, file: str, leak: str) -> None:
    package = build_package(course)
    assert leaked_lines(course, package) == []
    package[file] += f"\n{leak}\n"
    assert leaked_lines(course, package) == [f"{file}: {leak.strip()}"]


@pytest.mark.parametrize(
    ("file", "leak"),
    [
        ("basics.py", "# There is no limit yet."),
        ("shapes.py", "        return self.side + self.side"),
    ],
)
def test_a_leaked_line_of_an_earlier_body_is_found(course: Course, file: str, leak: str) -> None:
    course = add_extending_day(course)
    package = build_package(course)
    assert leaked_lines(course, package) == []
    package[file] += f"\n{leak}\n"
    assert leaked_lines(course, package) == [f"{file}: {leak.strip()}"]


def test_the_skeleton_of_this_course_defines_what_the_reference_defines() -> None:
    course = load_course()
    reference = read_package(course.reference)
    package = build_package(course)
    assert leaked_lines(course, package) == []
    assert set(package) == set(reference)
    for file in package:
        if file.endswith(".py") and file != "__init__.py":
            assert _interface(package[file]) == _interface(reference[file])


def _interface(source: str) -> list[str]:
    """The module without bodies and their docstrings, of which some are earlier ones."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = []
    return ast.unparse(tree).splitlines()
