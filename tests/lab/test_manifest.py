"""Reading course.toml, and looking up weeks, days and tasks."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_course import MANIFEST, add_extending_day, edit, make_course

from tiny_llm_lab.course.manifest import CourseError, Symbol, load_course


def test_everything_is_read(tmp_path: Path) -> None:
    course = make_course(tmp_path)
    assert [symbol.text for symbol in course.given] == ["basics.LIMIT", "basics.clamp"]
    assert [task.id for task in course.tasks] == ["1.1.1", "1.1.2", "1.2.1", "1.2.2", "1.2.3"]
    task = course.task("1.1.2")
    assert (task.title, task.points, task.symbols) == ("Squares", 10, (Symbol("shapes.Square"),))
    assert task.hints[2] == "area = side * side"
    day = course.day(1, 2)
    assert (day.name, day.chapter, day.tests) == (
        "Week 1 Day 2",
        "week-1-day-2.md",
        "tests/test_week_1_day_2.py",
    )
    assert [task.id for task in course.tasks_by_symbol[Symbol("basics.power")]] == [
        "1.2.1",
        "1.2.2",
    ]


def test_the_course_of_this_project_loads() -> None:
    course = load_course()
    assert course.task("1.3.2").symbols == (
        Symbol("attention.scaled_dot_product_attention_grouped"),
    )
    assert course.reference.is_dir()
    assert course.book.is_dir()


def test_a_task_can_extend_what_earlier_days_ask_for(tmp_path: Path) -> None:
    course = add_extending_day(make_course(tmp_path))
    task = course.task("1.3.1")
    double, half_perimeter = task.extends
    assert (double.text, half_perimeter.text) == ("basics.double", "shapes.Square.half_perimeter")
    assert task.symbols == course.task("1.1.1").extends == ()
    assert [owner.id for owner in course.owners(double)] == ["1.1.1"]
    # By its class.
    assert [owner.id for owner in course.owners(half_perimeter)] == ["1.1.2"]


def test_symbols_say_where_they_are() -> None:
    method = Symbol("batch.Request.try_prefill")
    assert (method.file, method.name) == ("batch.py", "Request.try_prefill")
    region = Symbol("cpp/quantized_matmul.cpp#matvec")
    assert (region.file, region.name) == ("cpp/quantized_matmul.cpp", "matvec")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("points = 5", "points = 5\ndue = 1", "week 1 day 1 task 1 has the unknown key 'due'"),
        ("points = 5\n", "", "week 1 day 1 task 1 lacks the key 'points'"),
        ("points = 5", "points = 'five'", "'points' must be an integer, not 'five'"),
        ("points = 5", "points = true", "'points' must be an integer, not True"),
        ("points = 5", "points = 0", "must be at least 1"),
        ("points = 5", "points = 5 5", "is not valid TOML"),
        ('title = "Squares"', 'title = ""', "'title' must be a non-empty string"),
        ('title = "Squares"', "title = 'A \"b\"'", "must not hold a quote"),
        ('number = 2\ntitle = "Squares"', 'number = 1\ntitle = "Squares"', "task number 1 stands"),
        ('number = 2\ntitle = "Powers"', 'number = 1\ntitle = "Powers"', "day number 1 stands"),
        ('["shapes.Square"]', "[]", "names no symbol"),
        ('["shapes.Square"]', '["Square"]', "names the symbol 'Square'"),
        ('["shapes.Square"]', '["shapes.Square.area.x"]', "write module.function"),
        ('["shapes.Square"]', '["a.b", "a.b"]', "the same string twice"),
        ('["shapes.Square"]', "[1]", "must be strings"),
        ("points = 5", "points = 5\nextends = 'x'", "'extends' must be an array, not 'x'"),
        ("points = 5", "points = 5\nextends = ['x']", "task 1 names the symbol 'x'"),
        (
            "points = 2\n",
            "points = 2\nextends = ['cpp/add.cpp#add']\n",
            "only functions and methods",
        ),
        (
            "points = 5",
            "points = 5\nextends = ['basics.power']",
            "task 1.1.1 extends 'basics.power', which no task of an earlier day names",
        ),
        ("points = 10", "points = 10\nextends = ['basics.double']", "no task of an earlier day"),
        ("points = 1\n", "points = 1\nextends = ['basics.triple']\n", "no task of an earlier day"),
        ('["shapes.Square"]', '["basics.power"]', "Week 1 Day 1 and to Week 1 Day 2"),
        ('hints = ["How many sides?", "All', 'hints = [3, "All', "must be strings"),
        ('title = "Numbers"\n', "", "week 1 lacks the key 'title'"),
    ],
)
def test_a_wrong_manifest_gets_one_sentence(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    course = make_course(tmp_path)
    with pytest.raises(CourseError) as caught:
        edit(course, "course.toml", old, new)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_manifest_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=r"course\.toml is missing"):
        load_course(tmp_path)
    (tmp_path / "course.toml").write_text("")
    with pytest.raises(CourseError, match="lacks the key 'week'"):
        load_course(tmp_path)
    (tmp_path / "course.toml").write_text("week = []\n")
    with pytest.raises(CourseError, match="the course has no week"):
        load_course(tmp_path)
    (tmp_path / "course.toml").write_text(MANIFEST.replace("[[week.day]]", "[[week.dya]]"))
    with pytest.raises(CourseError):
        load_course(tmp_path)


def test_lookups_list_what_exists(tmp_path: Path) -> None:
    course = make_course(tmp_path)
    assert course.week(1).days == course.days
    for lookup, message in (
        (lambda: course.week(2), "There is no week 2: the only week is 1."),
        (lambda: course.day(1, 3), "There is no day 3 in week 1: the days are 1 and 2."),
        (lambda: course.day(0, 1), "There is no week 0: the only week is 1."),
        (
            lambda: course.task("1.2.4"),
            "There is no task 4 in week 1 day 2: the tasks are 1, 2 and 3.",
        ),
        (
            lambda: course.task("softmax"),
            "'softmax' is not a task: write week.day.task, such as 1.1.1.",
        ),
        (lambda: course.task("1.2"), "'1.2' is not a task: write week.day.task, such as 1.1.1."),
        (
            lambda: course.task("1.-2.1"),
            "'1.-2.1' is not a task: write week.day.task, such as 1.1.1.",
        ),
    ):
        with pytest.raises(CourseError) as caught:
            lookup()
        assert str(caught.value) == message


def test_commands_that_only_read_the_course_do_not_wait_for_mlx() -> None:
    code = (
        "import sys, tiny_llm_lab.course.progress, tiny_llm_lab.course.hints, "
        "tiny_llm_lab.course.states, tiny_llm_lab.course.consistency; "
        "sys.exit('mlx.core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
