"""What a student sees: the grading plugin and `pdm run test`, on a small course of two days.

The course lies in a temporary folder; its solution package is called `engine`.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_llm_lab import PROJECT_ROOT

pytest_plugins = ["pytester"]

COURSE = """
given = []

[[week]]
number = 1
title = "Parts"
chapter = "week-1-overview.md"

[[week.day]]
number = 1
title = "Doubling"
chapter = "week-1-day-1.md"
tests = "tests/test_week_1_day_1.py"

[[week.day.task]]
number = 1
title = "Double"
symbols = ["doubling.double"]
points = 10
hints = ["", "", ""]

[[week.day.task]]
number = 2
title = "Doubler"
symbols = ["doubling.Doubler"]
points = 5
hints = ["", "", ""]

[[week.day]]
number = 2
title = "Halving"
chapter = "week-1-day-2.md"
tests = "tests/test_week_1_day_2.py"

[[week.day.task]]
number = 1
title = "Half"
symbols = ["halving.half"]
points = 20
hints = ["", "", ""]
"""

DAY_1 = """
import mlx.core as mx
import pytest
from solution import doubling
from tiny_llm_lab.course.checks import assert_close

@pytest.mark.parametrize("size", [1, 2, 3])
def test_task_1_every_element(size):
    \"\"\"Every element is doubled.\"\"\"
    assert_close(doubling.double(mx.ones(size)), [2.0] * size, what="double(x)")

@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_task_1_dtype(dtype):
    assert_close(doubling.double(mx.ones(2, dtype)), [2.0, 2.0], what="double(x)", dtype=dtype)

def test_task_2_doubler():
    assert_close(doubling.Doubler()(mx.ones(2)), [2.0, 2.0], what="Doubler()(x)")
"""

DAY_2 = """
import mlx.core as mx
import pytest
from solution import halving
from tiny_llm_lab.course.checks import assert_close

def test_task_1_half():
    assert_close(halving.half(mx.ones(2)), [0.5, 0.5], what="half(x)")
"""

DOUBLE = """
    def double(x):
        return x + x
"""

DOUBLER = """
    class Doubler:
        def __call__(self, x):
            return double(x)
"""

HALF = """
    def half(x):
        return x / 2
"""


class SmallCourse:
    """The course in a folder, with a solution to write and tests to run."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.package = pytester.mkpydir("engine")
        pytester.path.joinpath("course.toml").write_text(COURSE)
        pytester.mkdir("tests")
        shutil.copy(PROJECT_ROOT / "tests" / "conftest.py", self.path("tests/conftest.py"))
        self.path("tests/test_week_1_day_1.py").write_text(DAY_1)
        self.path("tests/test_week_1_day_2.py").write_text(DAY_2)
        self.write("doubling", DOUBLE, DOUBLER)
        self.write("halving", HALF)

    def path(self, name: str) -> Path:
        return self.pytester.path / name

    def write(self, module: str, *parts: str) -> None:
        text = "\n".join(textwrap.dedent(part).strip("\n") + "\n" for part in parts)
        (self.package / f"{module}.py").write_text(text)

    def run(self, *arguments: str, quiet: bool = True) -> pytest.RunResult:
        """Run pytest in this process, as `pdm run test` does."""
        options = ["-q", "--continue-on-collection-errors"] if quiet else []
        return self.pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--disable-plugin-autoload", *options, *arguments
        )


@pytest.fixture
def course(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> SmallCourse:
    for name in list(sys.modules):
        if name.split(".")[0] in ("solution", "engine"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TINY_LLM_SOLUTION", "engine")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(pytester.path)
    return SmallCourse(pytester)


def report_of(result: pytest.RunResult) -> str:
    """The output without the line that names the time, and without blank space around it."""
    lines = result.stdout.str().splitlines()
    return "\n".join(line.rstrip() for line in lines[:-1]).strip()


# --- the table ------------------------------------------------------------------------------


def test_everything_right(course: SmallCourse) -> None:
    result = course.run()
    assert report_of(result) == textwrap.dedent("""\
        Week 1 Day 1: Doubling
          1.1.1  Double   passed          5 of   5 tests   10 of  10 points
          1.1.2  Doubler  passed          1 of   1 tests    5 of   5 points
        Week 1 Day 2: Halving
          1.2.1  Half     passed          1 of   1 tests   20 of  20 points
        35 of 35 points.""")
    assert result.ret == 0
    result.stdout.re_match_lines([r"7 passed in .*s"])


def test_untouched_stubs_are_not_started(course: SmallCourse) -> None:
    course.write(
        "doubling",
        """
        def double(x):
            raise NotImplementedError("Week 1 Day 1, Task 1: Double")
        """,
        DOUBLER,
    )
    result = course.run()
    assert report_of(result) == textwrap.dedent("""\
        Week 1 Day 1: Doubling
          1.1.1  Double   not started     0 of   5 tests    0 of  10 points
          1.1.2  Doubler  not started     0 of   1 tests    0 of   5 points
                 needs Week 1 Day 1, Task 1: Double (1 test)
        Week 1 Day 2: Halving
          1.2.1  Half     passed          1 of   1 tests   20 of  20 points
        20 of 35 points.
        Next: task 1.1.1, Double: Task 1 in book/src/week-1-day-1.md (pdm run book)""")
    assert result.ret == 1
    result.stdout.re_match_lines([r"6 failed, 1 passed in .*s"])


def test_not_implemented_error_of_a_library_is_a_failure(course: SmallCourse) -> None:
    course.write(
        "halving",
        """
        import asyncio

        def half(x):
            return asyncio.AbstractEventLoop().stop()
        """,
    )
    report = report_of(course.run("tests/test_week_1_day_2.py"))
    assert "  NotImplementedError\n    look at    engine/halving.py:4, in half\n" in report
    assert "  1.2.1  Half  failed " in report


def test_stub_in_one_branch_is_a_failure(course: SmallCourse) -> None:
    course.write(
        "doubling",
        """
        def double(x):
            if x.size > 2:
                raise NotImplementedError
            return x + x
        """,
        DOUBLER,
    )
    result = course.run("-k", "task_1_every")
    result.stdout.fnmatch_lines(["  1.1.1  Double  failed *  2 of   3 tests  (not all run)"])


def test_name_that_no_test_has_is_answered_with_those_there_are(course: SmallCourse) -> None:
    one_day = report_of(course.run("tests/test_week_1_day_1.py", "-k", "task_9"))
    assert one_day == 'No test of Week 1 Day 1 matches "task_9": it has task_1 to task_2.'
    assert report_of(course.run("-k", "task_9")) == 'No test matches "task_9".'


def test_skip_is_not_verified_and_earns_nothing(course: SmallCourse) -> None:
    course.path("tests/test_week_1_day_2.py").write_text(
        DAY_2 + "\ndef test_task_1_gpu():\n    pytest.skip('needs an Apple GPU')\n"
    )
    result = course.run("tests/test_week_1_day_2.py")
    assert report_of(result) == textwrap.dedent("""\
        Week 1 Day 2: Halving
          1.2.1  Half  not verified    1 of   2 tests    0 of  20 points
                 not verified: needs an Apple GPU (1 test)
        0 of 20 points.""")
    assert result.ret == 0
    result.stdout.re_match_lines([r"1 passed, 1 skipped in .*s"])


def test_skipped_file_is_not_verified(course: SmallCourse) -> None:
    course.path("tests/test_week_1_day_2.py").write_text(
        "import pytest\npytest.skip('needs a C++ compiler', allow_module_level=True)\n"
    )
    result = course.run("tests/test_week_1_day_2.py")
    result.stdout.fnmatch_lines(
        ["  1.2.1  Half  not verified *", "         not verified: needs a C++ compiler"]
    )


def test_part_of_a_tasks_tests_earns_no_points(course: SmallCourse) -> None:
    for arguments in (["-k", "dtype"], ["tests/test_week_1_day_1.py::test_task_1_dtype"]):
        assert report_of(course.run(*arguments)) == textwrap.dedent("""\
            Week 1 Day 1: Doubling
              1.1.1  Double  passed          2 of   2 tests  (not all run)
            0 of 10 points.""")


def test_run_that_is_stopped_earns_no_points_for_the_rest(course: SmallCourse) -> None:
    course.write("doubling", "def double(x):\n    return x + x if x.size < 2 else 3 * x", DOUBLER)
    report = report_of(course.run("-x"))
    table = report[report.index("Week 1 Day 1: Doubling") :]
    assert table == textwrap.dedent("""\
        Week 1 Day 1: Doubling
          1.1.1  Double  failed          1 of   2 tests  (not all run)
        0 of 10 points.
        Next: task 1.1.1, Double.
        !!!!!!!!!!!!!!!!!!!!!!!!!! stopping after 1 failures !!!!!!!!!!!!!!!!!!!!!!!!!!!""")


# --- failures -------------------------------------------------------------------------------


def test_wrong_value(course: SmallCourse) -> None:
    course.write("doubling", "def double(x):\n    return 3 * x", DOUBLER)
    result = course.run("tests/test_week_1_day_1.py", "-k", "task_1_every")
    assert report_of(result) == textwrap.dedent("""\
        ============================== Task 1.1.1: Double ==============================
        test_task_1_every_element [1]  (tests/test_week_1_day_1.py:7)
        Every element is doubled.

          double(x): its only element is wrong.
            worst at   index [0]
            expected   2
            got        3
            error      1, 262,000 times the tolerance of 3.8e-06
            look at    engine/doubling.py:1, in double
            it fails for 2, 3 as well

        read        Task 1 in book/src/week-1-day-1.md (pdm run book)
        run again   pdm run test-refsol --week 1 --day 1 -- -k task_1
        a hint      pdm run hint 1.1.1

        Week 1 Day 1: Doubling
          1.1.1  Double  failed          0 of   3 tests  (not all run)
        0 of 10 points.
        Next: task 1.1.1, Double.""")
    result.stdout.re_match_lines([r"3 failed, 3 deselected in .*s"])


def test_parameters_for_which_a_test_passes(course: SmallCourse) -> None:
    course.write("doubling", "def double(x):\n    return x + x.size", DOUBLER)
    report = report_of(course.run("tests/test_week_1_day_1.py", "-k", "task_1_every"))
    assert "    it fails for 3 as well\n    it passes for 1\n" in report


def failure_of(course: SmallCourse, *modules: str) -> str:
    """What is printed for the first failure of day 1, between its name and the next steps."""
    course.write("doubling", *modules)
    report = report_of(course.run("tests/test_week_1_day_1.py", "-k", "task_2"))
    return (
        report.partition("test_task_2_doubler  (tests/test_week_1_day_1.py:16)\n")[2]
        .partition("\nread ")[0]
        .strip("\n")
    )


def test_exception_in_the_solution_names_its_line(course: SmallCourse) -> None:
    shown = failure_of(course, "def double(x):\n    return x + None", DOUBLER)
    lines = shown.splitlines()
    assert lines[0].startswith("  TypeError: ")
    assert lines[-2:] == [
        "    look at    engine/doubling.py:2, in double",
        "               return x + None",
    ]


def test_exception_at_the_call_names_the_definition(course: SmallCourse) -> None:
    shown = failure_of(course, "\nclass Doubler:\n    pass")
    assert shown == (
        "  TypeError: 'Doubler' object is not callable\n"
        "    look at    engine/doubling.py:1, in Doubler"
    )


def test_wrong_result_of_an_object_names_its_method(course: SmallCourse) -> None:
    shown = failure_of(
        course, DOUBLE, "class Doubler:\n    def __call__(self, x):\n        return x"
    )
    assert shown.splitlines()[-1] == "    look at    engine/doubling.py:5, in Doubler.__call__"


def test_wrong_signature_names_its_method(course: SmallCourse) -> None:
    shown = failure_of(
        course,
        """
        class Doubler:
            def __init__(self, factor):
                pass

            def __call__(self, x):
                return x
        """,
    )
    assert shown.splitlines()[-1] == "    look at    engine/doubling.py:2, in Doubler.__init__"


def test_arguments_that_are_not_refused_name_the_constructor(course: SmallCourse) -> None:
    course.path("tests/test_week_1_day_1.py").write_text(
        textwrap.dedent("""        from solution import doubling
        from tiny_llm_lab.course.checks import assert_raises_clearly

        def test_task_2_doubler():
            assert_raises_clearly(ValueError, lambda: doubling.Doubler(0), what="Doubler(0)")
        """)
    )
    course.write(
        "doubling",
        """
        class Doubler:
            def __init__(self, x):
                pass

            def __call__(self, x):
                return x + x
        """,
    )
    report = report_of(course.run("tests/test_week_1_day_1.py"))
    assert "  Doubler(0) must raise ValueError, but raises nothing\n" in report
    assert "    look at    engine/doubling.py:2, in Doubler.__init__\n" in report


def test_long_signatures_of_mlx_are_left_out(course: SmallCourse) -> None:
    shown = failure_of(
        course,
        """
        class Doubler:
            def __call__(self, x):
                return x.max(keepdim=True)
        """,
    )
    assert shown.splitlines()[0] == "  TypeError: max() does not accept (array, keepdim: bool)"


def test_exception_below_the_solution_names_the_solutions_line(course: SmallCourse) -> None:
    shown = failure_of(
        course,
        """
        import json

        class Doubler:
            def __call__(self, x):
                return json.loads("{")
        """,
    )
    assert shown.splitlines()[1:] == [
        "    look at    engine/doubling.py:5, in __call__",
        '               return json.loads("{")',
    ]


def test_wrong_exception_names_the_line_that_raised_it(course: SmallCourse) -> None:
    test = """
        from solution import halving
        from tiny_llm_lab.course.checks import assert_raises_clearly

        def test_task_1_half():
            assert_raises_clearly(ValueError, lambda: halving.half("a"), what='half("a")')
    """
    course.path("tests/test_week_1_day_2.py").write_text(textwrap.dedent(test))
    report = report_of(course.run("tests/test_week_1_day_2.py"))
    assert '  half("a") raises the wrong exception.\n    expected   ValueError\n' in report
    assert "    look at    engine/halving.py:2, in half\n               return x / 2\n" in report


def test_missing_definition_is_named(course: SmallCourse) -> None:
    shown = failure_of(course, DOUBLE)
    assert shown == (
        "  AttributeError: module 'engine.doubling' has no attribute 'Doubler'\n"
        "    look at    engine/doubling.py"
    )


def test_printed_lines_are_shown_from_their_end(course: SmallCourse) -> None:
    shown = failure_of(
        course,
        """
        class Doubler:
            def __call__(self, x):
                for i in range(100):
                    print("line", i)
                return x
        """,
    )
    assert shown.splitlines()[-21:] == [
        "    it printed",
        *[f"      line {i}" for i in range(80, 100)],
    ]


def test_endless_loop_is_stopped(course: SmallCourse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_llm_lab.course.grading.TIME_LIMIT_SECONDS", 1)
    shown = failure_of(
        course,
        """
        class Doubler:
            def __call__(self, x):
                while True:
                    try:
                        x = x + x
                    except Exception:
                        pass
        """,
    )
    lines = shown.splitlines()
    assert lines[0] == "  The test was stopped after 1 seconds: does a loop never end?"
    assert lines[1].startswith("    look at    engine/doubling.py:")
    assert lines[1].endswith(", in __call__")


def test_first_failing_tests_of_a_task_are_explained_in_full(course: SmallCourse) -> None:
    test = """
        from solution import halving
        from tiny_llm_lab.course.checks import assert_close
    """
    for letter in "abcde":
        test += f"""
        def test_task_1_{letter}():
            assert_close(halving.half(1), 0.5, what="half({letter})")
        """
    course.path("tests/test_week_1_day_2.py").write_text(textwrap.dedent(test))
    report = report_of(course.run("tests/test_week_1_day_2.py"))
    assert report.count("look at") == 3
    assert report.count(" must be an mx.array, but is a float") == 5
    assert report.count("(details of the first 3 only; -- -k NAME shows one in full)") == 1


def test_tests_that_crash_in_the_same_way_are_explained_once(course: SmallCourse) -> None:
    test = "import mlx.core as mx\nfrom solution import halving\n"
    for letter in "abcde":
        test += f"\ndef test_task_1_{letter}():\n    halving.half(mx.ones(2))\n"
    course.path("tests/test_week_1_day_2.py").write_text(test)
    course.write("halving", "def half(x):\n    return x.halved()")
    report = report_of(course.run("tests/test_week_1_day_2.py"))
    assert report.count("AttributeError") == report.count("look at") == 1
    assert (
        "\n4 more tests fail in the same way: "
        "test_task_1_b, test_task_1_c, test_task_1_d, test_task_1_e\n" in report
    )


def test_explicit_tb_restores_pytests_own_report(course: SmallCourse) -> None:
    course.write("doubling", "def double(x):\n    return 3 * x", DOUBLER)
    result = course.run("tests/test_week_1_day_1.py", "-k", "task_2", "--tb=short")
    output = result.stdout.str()
    assert "= FAILURES =" in output
    assert "E   tiny_llm_lab.course.checks.CheckFailure: Doubler()(x): 2 of 2" in output
    assert "look at" not in output
    assert "  1.1.2  Doubler  failed " in output


def test_without_q_pytests_letters_are_kept(course: SmallCourse) -> None:
    result = course.run(quiet=False)
    result.stdout.fnmatch_lines(["tests/test_week_1_day_1.py ......*", "*1.2.1  Half *passed*"])


# --- a solution that cannot be imported -----------------------------------------------------


def test_syntax_error(course: SmallCourse) -> None:
    course.write("halving", "def half(x)\n    return x / 2")
    result = course.run()
    assert report_of(result) == textwrap.dedent("""\
        =========================== Day 1.2 cannot be tested ===========================
        SyntaxError: expected ':'
          look at    engine/halving.py:1
                     def half(x)

        Week 1 Day 1: Doubling
          1.1.1  Double   passed          5 of   5 tests   10 of  10 points
          1.1.2  Doubler  passed          1 of   1 tests    5 of   5 points
        Week 1 Day 2: Halving
          1.2.1  Half     cannot be tested                  0 of  20 points
        15 of 35 points.
        Next: repair engine/halving.py:1, then run again.""")
    assert result.ret == 1
    result.stdout.re_match_lines([r"6 passed, 1 error in .*s"])


def broken_day_of(course: SmallCourse, text: str) -> list[str]:
    course.write("halving", text)
    report = report_of(course.run("tests/test_week_1_day_2.py"))
    return report.partition("\n\n")[0].splitlines()[1:]


def test_error_while_importing_the_solution(course: SmallCourse) -> None:
    assert broken_day_of(course, "HALF = 1 / 0\n") == [
        "ZeroDivisionError: division by zero",
        "  look at    engine/halving.py:1, in <module>",
        "             HALF = 1 / 0",
    ]


def test_missing_library(course: SmallCourse) -> None:
    assert broken_day_of(course, "import no_such_library\n") == [
        "ModuleNotFoundError: No module named 'no_such_library'",
        "  look at    engine/halving.py:1, in <module>",
        "             import no_such_library",
    ]


def test_missing_module(course: SmallCourse) -> None:
    (course.package / "halving.py").unlink()
    report = report_of(course.run("tests/test_week_1_day_2.py"))
    assert "\nThere is no engine/halving.py: create it.\n" in report
    assert report.endswith("\nNext: repair the import, then run again.")


def test_missing_module_that_another_imports(course: SmallCourse) -> None:
    assert broken_day_of(course, "from .sampler import sample\n") == [
        "There is no engine/sampler.py: create it.",
        "  look at    engine/halving.py:1, in <module>",
        "             from .sampler import sample",
    ]


def test_missing_name(course: SmallCourse) -> None:
    assert broken_day_of(course, "from .doubling import triple\n") == [
        "engine/doubling.py does not define triple.",
        "  look at    engine/halving.py:1, in <module>",
        "             from .doubling import triple",
    ]


def test_one_broken_module_is_reported_once(course: SmallCourse) -> None:
    course.write("halving", "def half(x)\n    return x / 2")
    course.path("tests/test_week_1_day_1.py").write_text(DAY_2)
    report = report_of(course.run())
    assert " Days 1.1 and 1.2 cannot be tested " in report
    assert report.count("SyntaxError") == 1


def test_broken_test_file_keeps_pytests_own_report(course: SmallCourse) -> None:
    course.path("tests/test_week_1_day_2.py").write_text("import no_such_library\n")
    result = course.run("tests/test_week_1_day_2.py")
    result.stdout.fnmatch_lines(["*ERROR collecting tests/test_week_1_day_2.py*"])
    assert result.ret != 0


def test_broken_manifest_is_one_sentence(course: SmallCourse) -> None:
    course.path("course.toml").write_text("title = \n")
    result = course.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().startswith("ERROR: ")
    assert "Traceback" not in result.stderr.str()


# --- isolation ------------------------------------------------------------------------------


def test_every_test_starts_from_the_same_seeds_and_device(course: SmallCourse) -> None:
    test = """
        import random
        import mlx.core as mx
        import numpy as np
        import pytest

        @pytest.mark.parametrize("run", range(3))
        def test_task_1_same_numbers(run):
            drawn = (random.random(), np.random.random(), mx.random.uniform().item())
            seen = globals().setdefault("seen", (drawn, mx.default_device()))
            mx.set_default_device(mx.Device(mx.cpu, 0))
            assert seen[0] == drawn
            assert str(mx.default_device()) == "Device(cpu, 0)"
    """
    course.path("tests/test_week_1_day_2.py").write_text(textwrap.dedent(test))
    assert course.run("tests/test_week_1_day_2.py").ret == 0


def test_other_tests_are_left_alone(course: SmallCourse) -> None:
    course.path("tests/test_other.py").write_text("def test_task_1_x():\n    assert 1 == 2\n")
    result = course.run("tests/test_other.py")
    result.stdout.fnmatch_lines(["*= FAILURES =*", "*assert 1 == 2*", "1 failed*"])
    assert "points" not in result.stdout.str()


# --- pdm run test ---------------------------------------------------------------------------


@pytest.fixture
def pdm_run_test() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs scripts/test.py on the project's own course."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("TINY_LLM_SOLUTION", None)
        return subprocess.run(
            [sys.executable, str(PROJECT_ROOT / "scripts" / "test.py"), *arguments],
            cwd=PROJECT_ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_options_behind_the_dashes_go_to_pytest(
    pdm_run_test: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = pdm_run_test(
        "--solution",
        "ref",
        "--week",
        "1",
        "--day",
        "3",
        "--",
        "-k",
        "task_1",
        "-p",
        "no:cacheprovider",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  1.3.1  Causal mask  passed " in done.stdout
    assert "1.3.2" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--week", "1", "--day", "9"], "There is no day 9 in week 1: the days are 1, 2, 3,"),
        (["--week", "7"], "There is no week 7: the "),
        (["--day", "3"], "--day 3 needs its week, as in --week 1 --day 3."),
    ],
)
def test_wrong_week_or_day_is_one_sentence(
    arguments: list[str],
    message: str,
    pdm_run_test: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = pdm_run_test(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
