"""Reads course.toml: the weeks, days and tasks of the course, as frozen dataclasses.

The keys of course.toml, all required unless a default is given:

    given                 definitions of the reference that the skeleton keeps whole, written as
                          symbols are (`models.Config`); default none
    [[week]]              number, title, chapter (its overview, a file of book/src)
    [[week.day]]          number, title, chapter, tests (the test file, from the project's root)
    [[week.day.task]]     number, title, symbols, points, hints (a question, the invariant,
                          pseudocode); extends, default none

A symbol is what the student has to write, and is named in one of these ways:

    attention.causal_mask                   a function of attention.py
    attention.SimpleMultiHeadAttention      a class: every method of it
    batch.Request.try_prefill               one method
    cpp/quantized_matmul.cpp#matvec         a region of a file that is not Python, between the
                                            lines `BEGIN SOLUTION matvec` and `END SOLUTION`

Tasks of the same day may share a symbol. A symbol that names a method takes precedence over one
that names its class, so a method can belong to a later day than the rest of its class.

`extends` lists functions and methods that a task of an earlier day asks for and that this task
changes. Their bodies as they stand before week 2 day 7 are in `before/week_2_day_7/`, see
`tiny_llm_lab.course.earlier`. A task that extends something may have no symbols of its own.

`load_course` checks the manifest itself; whether the files and definitions it names exist is
checked by `tiny_llm_lab.course.consistency`. Nothing here imports MLX: commands start fast.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_llm_lab import PROJECT_ROOT

HINT_LEVELS = 3


class CourseError(Exception):
    """Something is wrong with the course's data or with a request for it, in one sentence."""


@dataclass(frozen=True)
class Symbol:
    """What a student has to write: a function, a class, a method, or a marked region."""

    text: str

    @property
    def is_region(self) -> bool:
        """Whether it is a marked region of a file that is not Python."""
        return "#" in self.text

    @property
    def file(self) -> str:
        """The file, relative to the package: `attention.py`."""
        if self.is_region:
            return self.text.partition("#")[0]
        return self.text.partition(".")[0] + ".py"

    @property
    def name(self) -> str:
        """The name within the file: `causal_mask`, `Request.try_prefill`, or a region's name."""
        return self.text.partition("#" if self.is_region else ".")[2]


@dataclass(frozen=True)
class Task:
    """One task of a day: what to write and to extend, for how many points, with which hints."""

    week: int
    day: int
    number: int
    title: str
    symbols: tuple[Symbol, ...]
    extends: tuple[Symbol, ...]
    points: int
    hints: tuple[str, ...]

    @property
    def id(self) -> str:
        """`week.day.task`, such as `1.3.2`."""
        return f"{self.week}.{self.day}.{self.number}"

    @property
    def test_options(self) -> str:
        """What `pdm run test` takes to run this task's tests alone."""
        return f"--week {self.week} --day {self.day} -- -k task_{self.number}"


@dataclass(frozen=True)
class Day:
    """One day: a chapter, a test file and the tasks."""

    week: int
    number: int
    title: str
    chapter: str
    tests: str
    tasks: tuple[Task, ...]

    @property
    def id(self) -> str:
        """`week.day`, such as `1.3`."""
        return f"{self.week}.{self.number}"

    @property
    def name(self) -> str:
        """`Week 1 Day 3`."""
        return f"Week {self.week} Day {self.number}"


@dataclass(frozen=True)
class Week:
    """One week: an overview chapter and the days."""

    number: int
    title: str
    chapter: str
    days: tuple[Day, ...]


@dataclass(frozen=True)
class Course:
    """The whole course, and where its parts lie.

    Attributes:
        root: the project's root folder, the one that holds course.toml.
    """

    root: Path
    given: tuple[Symbol, ...]
    weeks: tuple[Week, ...]

    @property
    def days(self) -> tuple[Day, ...]:
        """All days, in the order in which a student does them."""
        return tuple(day for week in self.weeks for day in week.days)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in the order in which a student does them."""
        return tuple(task for day in self.days for task in day.tasks)

    @property
    def tasks_by_symbol(self) -> dict[Symbol, tuple[Task, ...]]:
        """The tasks that ask for each symbol; more than one if they share it."""
        tasks: dict[Symbol, tuple[Task, ...]] = {}
        for task in self.tasks:
            for symbol in task.symbols:
                tasks[symbol] = (*tasks.get(symbol, ()), task)
        return tasks

    def owners(self, symbol: Symbol) -> tuple[Task, ...]:
        """The tasks that ask for a function or method, or else for its class; maybe none."""
        tasks = self.tasks_by_symbol
        return tasks.get(symbol) or tasks.get(Symbol(symbol.text.rpartition(".")[0]), ())

    @property
    def before(self) -> Path:
        """The folder of the bodies that a later day extends."""
        return self.root / "before"

    @property
    def reference(self) -> Path:
        """The folder of the reference solution's package."""
        return self.root / "src" / "tiny_llm_ref"

    @property
    def student(self) -> Path:
        """The folder of the student's package."""
        return self.root / "src" / "tiny_llm"

    @property
    def book(self) -> Path:
        """The folder of the book's chapters."""
        return self.root / "book" / "src"

    def week(self, number: int) -> Week:
        """The week of that number; CourseError if there is none."""
        for week in self.weeks:
            if week.number == number:
                return week
        raise CourseError(f"There is no week {number}: {_exist('week', self.weeks)}.")

    def day(self, week: int, number: int) -> Day:
        """The day of that number in that week; CourseError if there is none."""
        days = self.week(week).days
        for day in days:
            if day.number == number:
                return day
        raise CourseError(f"There is no day {number} in week {week}: {_exist('day', days)}.")

    def task(self, task_id: str) -> Task:
        """The task of that id, such as `1.3.2`; CourseError if there is none."""
        numbers = task_id.split(".")
        if len(numbers) != 3 or not all(part.isascii() and part.isdigit() for part in numbers):
            raise CourseError(
                f"{task_id!r} is not a task: write week.day.task, such as {self.tasks[0].id}."
            )
        week, day, task_number = map(int, numbers)
        tasks = self.day(week, day).tasks
        for task in tasks:
            if task.number == task_number:
                return task
        raise CourseError(
            f"There is no task {task_number} in week {week} day {day}: {_exist('task', tasks)}."
        )


def load_course(root: Path = PROJECT_ROOT) -> Course:
    """Read and check `root/course.toml`.

    Raises:
        CourseError: the file is missing or is not valid TOML; a key is unknown, missing or of the
            wrong type; numbers do not count up from 1; two days share a symbol; a task extends
            what no earlier day asks for.
    """
    path = root / "course.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CourseError(f"{path} is missing.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is not valid TOML: {error}.") from error
    table = _check_table({"given": [], **data}, "course.toml", {"given": list, "week": list})
    course = Course(
        root=root,
        given=_symbols(table["given"], "given"),
        weeks=tuple(_week(*item) for item in _numbered(table["week"], "week", "")),
    )
    _check_sharing(course)
    _check_extensions(course)
    return course


def _week(data: Any, where: str) -> Week:
    table = _check_table(data, where, {"number": int, "title": str, "chapter": str, "day": list})
    number = table["number"]
    days = tuple(_day(number, *item) for item in _numbered(table["day"], "day", where))
    return Week(number, table["title"], table["chapter"], days)


def _day(week: int, data: Any, where: str) -> Day:
    fields = {"number": int, "title": str, "chapter": str, "tests": str, "task": list}
    table = _check_table(data, where, fields)
    number = table["number"]
    tasks = tuple(_task(week, number, *item) for item in _numbered(table["task"], "task", where))
    return Day(week, number, table["title"], table["chapter"], table["tests"], tasks)


def _task(week: int, day: int, data: Any, where: str) -> Task:
    fields = {"number": int, "title": str, "symbols": list, "points": int, "hints": list}
    table = _check_table({"extends": [], **data}, where, {**fields, "extends": list})
    if '"' in table["title"] or "\\" in table["title"]:
        raise CourseError(f"course.toml: the title of {where} must not hold a quote or backslash.")
    if table["points"] < 1:
        raise CourseError(f"course.toml: the points of {where} must be at least 1.")
    symbols = _symbols(table["symbols"], where)
    extends = _symbols(table["extends"], f"`extends` of {where}")
    if not symbols and not extends:
        raise CourseError(f"course.toml: {where} names no symbol.")
    hints = tuple(_strings(table["hints"], f"the hints of {where}"))
    return Task(
        week, day, table["number"], table["title"], symbols, extends, table["points"], hints
    )


def _symbols(values: list[Any], where: str) -> tuple[Symbol, ...]:
    symbols = tuple(Symbol(text) for text in _strings(values, f"the symbols of {where}"))
    for symbol in symbols:
        parts = symbol.text.split("#" if symbol.is_region else ".")
        if not all(parts) or len(parts) not in ((2,) if symbol.is_region else (2, 3)):
            raise CourseError(
                f"course.toml: {where} names the symbol {symbol.text!r}; "
                "write module.function, module.Class, module.Class.method or file#region."
            )
    return symbols


def _strings(values: list[Any], where: str) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise CourseError(f"course.toml: {where} must be strings.")
    if len(set(filter(None, values))) != len(list(filter(None, values))):
        raise CourseError(f"course.toml: {where} hold the same string twice.")
    return values


def _numbered(items: list[Any], kind: str, where: str) -> Iterator[tuple[Any, str]]:
    """The entries of an array of tables, each with its name for messages; checks the numbers.

    Days count up with gaps, where a day is not written yet; weeks and tasks without.
    """
    if not items:
        raise CourseError(f"course.toml: {where or 'the course'} has no {kind}.")
    expected = 1
    for item in items:
        number = item.get("number") if isinstance(item, dict) else None
        if kind == "day" and isinstance(number, int):
            expected = max(expected, number)
        if number != expected:
            raise CourseError(
                f"course.toml: {where + ', ' if where else ''}{kind} number {number!r} stands "
                f"where {expected} is expected: numbers count up from 1."
            )
        expected += 1
        yield item, f"{where + ' ' if where else ''}{kind} {number}"


def _check_table(data: Any, where: str, fields: dict[str, type]) -> dict[str, Any]:
    """Check that a table has exactly these keys, with values of these types."""
    prefix = "course.toml" if where == "course.toml" else f"course.toml: {where}"
    if unknown := sorted(set(data) - set(fields)):
        raise CourseError(f"{prefix} has the unknown key {unknown[0]!r}; known: {_list(fields)}.")
    for key, kind in fields.items():
        if key not in data:
            raise CourseError(f"{prefix} lacks the key {key!r}.")
        value = data[key]
        if type(value) is not kind or value == "":
            names = {str: "a non-empty string", int: "an integer", list: "an array"}
            raise CourseError(f"{prefix}: {key!r} must be {names[kind]}, not {value!r}.")
    return dict(data)


def _check_sharing(course: Course) -> None:
    day_of: dict[Symbol, Day] = {}
    for day in course.days:
        for symbol in {symbol for task in day.tasks for symbol in task.symbols}:
            if symbol in day_of:
                raise CourseError(
                    f"course.toml: {symbol.text!r} belongs to {day_of[symbol].name} and to "
                    f"{day.name}, but only tasks of one day may share a symbol."
                )
            day_of[symbol] = day


def _check_extensions(course: Course) -> None:
    for task in course.tasks:
        for symbol in task.extends:
            if symbol.is_region:
                raise CourseError(
                    f"course.toml: task {task.id} extends {symbol.text!r}, "
                    "but only functions and methods can be extended."
                )
            owners = course.owners(symbol)
            if not owners or (owners[0].week, owners[0].day) >= (task.week, task.day):
                raise CourseError(
                    f"course.toml: task {task.id} extends {symbol.text!r}, "
                    "which no task of an earlier day names."
                )


def _exist(kind: str, items: tuple[Any, ...]) -> str:
    """`the days are 1, 2 and 3`, or `the only day is 1`."""
    if len(items) == 1:
        return f"the only {kind} is {items[0].number}"
    return f"the {kind}s are {_list([str(item.number) for item in items])}"


def _list(items: Any) -> str:
    """`a, b and c`."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else str(last)
