"""A course of two days in a temporary folder, small enough that its tests take no time.

Day 1: task 1 `basics.double`, task 2 the class `shapes.Square`.
Day 2: tasks 1 and 2 share `basics.power`, task 3 is a region of `cpp/add.cpp`.

`add_extending_day` adds a third one, whose only task extends `basics.double` and a method of
`shapes.Square`.
"""

from pathlib import Path

from tiny_llm_lab.course.manifest import Course, load_course
from tiny_llm_lab.course.student_work import write_skeleton

MANIFEST = """\
given = ["basics.LIMIT", "basics.clamp"]

[[week]]
number = 1
title = "Numbers"
chapter = "week-1-overview.md"

[[week.day]]
number = 1
title = "Twice"
chapter = "week-1-day-1.md"
tests = "tests/test_week_1_day_1.py"

[[week.day.task]]
number = 1
title = "Double"
symbols = ["basics.double"]
points = 5
hints = ["What is twice a number?", "double(x) is x + x.", "return x + x"]

[[week.day.task]]
number = 2
title = "Squares"
symbols = ["shapes.Square"]
points = 10
hints = ["How many sides?", "All sides are equal.", "area = side * side"]

[[week.day]]
number = 2
title = "Powers"
chapter = "week-1-day-2.md"
tests = "tests/test_week_1_day_2.py"

[[week.day.task]]
number = 1
title = "Positive powers"
symbols = ["basics.power"]
points = 20
hints = ["a", "b", "c"]

[[week.day.task]]
number = 2
title = "The power 0"
symbols = ["basics.power"]
points = 1
hints = ["a", "b", "c"]

[[week.day.task]]
number = 3
title = "Add in C++"
symbols = ["cpp/add.cpp#add"]
points = 2
hints = ["a", "b", "c"]
"""

BASICS = '''\
"""Small functions."""

import math

# The largest result.
LIMIT = 1000


def double(x: int) -> int:
    """Twice `x`.

    Args:
        x: any number.
    """
    # Adding is cheaper than multiplying.
    return clamp(x + x)


# Powers come on day 2.
def power(x: int, n: int = 2) -> int:
    """`x` to the `n`."""

    def step(product: int, rest: int) -> int:
        return product if rest == 0 else step(product * x, rest - 1)

    return step(1, n)
    # Nothing else is needed.


def clamp(x: int) -> int:
    """At most LIMIT."""
    return min(math.floor(x), LIMIT)
'''

SHAPES = '''\
"""Shapes."""

from .basics import double


class Square:
    """A square."""

    corners: int = 4

    def __init__(self, side: int) -> None:
        """Keep the side."""
        self.side = side

    @property
    def area(self) -> int:
        """The area."""
        return self.side * self.side

    def half_perimeter(self) -> int:
        """Two sides."""
        return double(self.side)
'''

ADD = """\
int add(int a, int b) {
    // BEGIN SOLUTION add
    int sum_of_both = a + b;
    return sum_of_both;
    // END SOLUTION
}
"""

TESTS_1 = """\
import pytest
from solution import basics, shapes


@pytest.mark.parametrize("x", [1, 2])
def test_task_1_twice(x):
    assert basics.double(x) == 2 * x


def test_task_2_area():
    assert shapes.Square(3).area == 9


def test_task_2_half_perimeter():
    assert shapes.Square(3).half_perimeter() == 6
"""

TESTS_2 = """\
from solution import basics


def test_task_1_positive():
    assert basics.power(3, 2) == 9


def test_task_2_zero():
    assert basics.power(3, 0) == 1


def test_task_3_after_the_powers():
    assert basics.power(2, 1) == 2
"""

DAY_3 = """
[[week.day]]
number = 3
title = "Limits"
chapter = "week-1-day-3.md"
tests = "tests/test_week_1_day_3.py"

[[week.day.task]]
number = 1
title = "A limit"
symbols = []
extends = ["basics.double", "shapes.Square.half_perimeter"]
points = 3
hints = ["a", "b", "c"]
"""

BASICS_BEFORE_3 = '''\
"""Before there is a limit."""


def double(x: int) -> int:
    """Twice `x`, however large."""
    # There is no limit yet.
    return x + x
'''

SHAPES_BEFORE_3 = """\
from .basics import double


class Square:
    def half_perimeter(self) -> int:
        # Without `double`.
        return self.side + self.side
        # Both sides are there.
"""

TESTS_3 = """\
from solution import basics


class CheckFailure(AssertionError):
    pass


def test_task_1_limit():
    if basics.double(999) != 1000:
        raise CheckFailure("double has no limit")
"""

FILES = {
    "course.toml": MANIFEST,
    "src/tiny_llm_ref/__init__.py": '"""The reference."""\n',
    "src/tiny_llm_ref/basics.py": BASICS,
    "src/tiny_llm_ref/shapes.py": SHAPES,
    "src/tiny_llm_ref/cpp/add.cpp": ADD,
    "tests/conftest.py": "from tiny_llm_lab.course import solution\n\nsolution.install()\n",
    "tests/test_week_1_day_1.py": TESTS_1,
    "tests/test_week_1_day_2.py": TESTS_2,
    "book/src/SUMMARY.md": (
        "- [Week 1](week-1-overview.md)\n"
        "    - [Twice](week-1-day-1.md)\n"
        "    - [Powers](./week-1-day-2.md)\n"
    ),
    "book/src/week-1-overview.md": "# Week 1: Numbers\n",
    "book/src/week-1-day-1.md": "# Week 1, Day 1: Twice\n\n{{#task 1.1.1}}\n\n{{#task 1.1.2}}\n",
    "book/src/week-1-day-2.md": (
        "# Week 1, Day 2: Powers\n\n{{#task 1.2.1}}\n{{#task 1.2.2}}\n{{#task 1.2.3}}\n"
    ),
}


def make_course(root: Path) -> Course:
    """Write the course's files, the skeleton among them, and load it."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    course = load_course(root)
    write_skeleton(course)
    return course


def add_extending_day(course: Course) -> Course:
    """Add day 3, generate the skeleton anew, and load the course anew."""
    edit(course, "book/src/SUMMARY.md", "- [Week 1]", "- [Limits](week-1-day-3.md)\n- [Week 1]")
    for name, text in {
        "course.toml": MANIFEST + DAY_3,
        "before/week_1_day_3/basics.py": BASICS_BEFORE_3,
        "before/week_1_day_3/shapes.py": SHAPES_BEFORE_3,
        "tests/test_week_1_day_3.py": TESTS_3,
        "book/src/week-1-day-3.md": "# Week 1, Day 3: Limits\n\n{{#task 1.3.1}}\n",
    }.items():
        path = course.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    course = load_course(course.root)
    write_skeleton(course)
    return course


def edit(course: Course, name: str, old: str, new: str) -> Course:
    """Replace text in one of the course's files, and load the course anew."""
    path = course.root / name
    text = path.read_text()
    assert old in text, f"{name} does not hold {old!r}"
    path.write_text(text.replace(old, new))
    return load_course(course.root)
