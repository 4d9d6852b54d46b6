"""`pdm run check-states`: run the graded tests on every state of a student, as CI does.

The skeleton is the generated one and gives no solution away; every graded test fails on it; on the
state after day N, day N passes and day N+1 fails. See `tiny_llm_lab.course.states`.
"""

import time
from collections import Counter

import typer

from tiny_llm_lab.cli import fail
from tiny_llm_lab.course.consistency import check_consistency
from tiny_llm_lab.course.graded_tests import Outcome
from tiny_llm_lab.course.manifest import CourseError, load_course
from tiny_llm_lab.course.states import check_last_state, check_skeleton, check_state, state_name


def main() -> None:
    """Check the skeleton, and run the graded tests on every state of a student."""
    try:
        course = load_course()
        problems = check_consistency(course)
        # Without a skeleton that can be generated there is no state to run tests on.
        problems = problems or [*check_skeleton(course), *check_last_state(course)]
    except CourseError as error:
        fail(str(error), exit_code=1)
    for through in () if problems else (None, *course.days):
        results: Counter[str] = Counter()

        def count(outcome: Outcome, results: Counter[str] = results) -> None:
            results[outcome.result] += 1

        start = time.perf_counter()
        found = check_state(course, through, count)
        counts = ", ".join(f"{number} {result}" for result, number in sorted(results.items()))
        seconds = time.perf_counter() - start
        verdict = f"{len(found)} problems" if found else "as it should be"
        print(f"{state_name(through)}: {counts}: {verdict} ({seconds:.1f} s)", flush=True)
        problems += found
    if problems:
        fail("\n".join(problems), exit_code=1)
    print("Every test fails without its day's work and passes with it.")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
