"""`pdm run check-states`: run the graded tests on every state of a student, as CI does.

Manifest, reference, tests and chapters name the same tasks; the skeleton is the generated one and
gives no solution away; every graded test fails on it; on the state after day N, day N passes and
day N+1 fails. See `tiny_llm_lab.course.consistency` and `tiny_llm_lab.course.states`.
"""

import time
from collections import Counter

from rich.console import Console

from tiny_llm_lab.cli import fail, run
from tiny_llm_lab.course.consistency import check_consistency
from tiny_llm_lab.course.graded_tests import Outcome
from tiny_llm_lab.course.manifest import CourseError, load_course
from tiny_llm_lab.course.states import check_last_state, check_skeleton, check_state, state_name
from tiny_llm_lab.course.student_work import written_symbols


def main() -> None:
    """Check manifest, skeleton, tests and chapters, and run the tests on every state."""
    console = Console(stderr=True)
    try:
        course = load_course()
        problems = check_consistency(course)
        # Without a skeleton that can be generated there is no state to run tests on.
        problems = problems or [*check_skeleton(course), *check_last_state(course)]
        work = written_symbols(course)
    except CourseError as error:
        fail(str(error), exit_code=1)
    if work:
        print(
            "src/tiny_llm holds a student's work, as it is meant to: it is not compared with the "
            "generated skeleton, and the states are made without it."
        )
    for through in () if problems else (None, *course.days):
        results: Counter[str] = Counter()

        def count(outcome: Outcome, results: Counter[str] = results) -> None:
            results[outcome.result] += 1

        start = time.perf_counter()
        with console.status(state_name(through)):
            found = check_state(course, through, count)
        counts = ", ".join(f"{number} {result}" for result, number in sorted(results.items()))
        seconds = time.perf_counter() - start
        verdict = f"{len(found)} problems" if found else "as it should be"
        print(f"{state_name(through)}: {counts}: {verdict} ({seconds:.1f} s)", flush=True)
        problems += found
    if problems:
        fail("\n".join(problems), exit_code=1)
    print("Every graded test fails without its day's work and passes with it.")


if __name__ == "__main__":
    run(main)
