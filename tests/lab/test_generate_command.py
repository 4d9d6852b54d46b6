"""`pdm run generate`: the answer on stdout, the figures on stderr, bad input in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_llm_lab import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "scripts" / "generate.py"


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120
    )


def test_reference_and_mlx_lm_give_the_same_answer_and_figures() -> None:
    ours, theirs = (generate("Count to 6.", "--solution", name) for name in ("ref", "mlx"))
    assert ours.stdout == theirs.stdout == "1 2 3 4 5 6\n"
    for figure in ("time to first token", "prefill", "decode", "tokens/s"):
        assert figure in ours.stderr and figure in theirs.stderr


def test_a_seed_makes_sampling_repeatable() -> None:
    options = ("Tell a story about Mia and a cat.", "--temp", "1.5", "--max-tokens", "20")
    first, second, other = (generate(*options, "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == second != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("  ",), "The prompt is empty"),
        (("hi", "--max-tokens", "0"), "--max-tokens must be at least 1"),
        (("hi", "--temp", "-1"), "--temp must not be negative"),
        (("hi", "--top-p", "2"), "--top-p must be between 0 and 1"),
        (("hi", "--top-k", "-3"), "--top-k must not be negative"),
        (("hi", "--model", "huge"), "There is no model named 'huge'"),
        (("hi " * 9000,), "does not fit into the model's context"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    result = generate(*arguments)
    assert result.returncode != 0 and result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_failing_solution_is_told_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tiny_llm"
    package.mkdir()
    for name, text in (("__init__", ""), ("generate", ""), ("qwen3", "Qwen3Model = 1 / 0\n")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = generate("hi", "--solution", "student")
    assert (result.returncode, result.stdout) == (1, "")
    first, second, third, source = result.stderr.strip().splitlines()
    assert (first, second) == ("Your solution fails.", "ZeroDivisionError: division by zero")
    assert third.endswith("tiny_llm/qwen3.py:1, in <module>")
    assert source.strip() == "Qwen3Model = 1 / 0"
