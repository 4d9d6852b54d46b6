"""`pdm run batch-generate`: texts on stdout, the rest on stderr, errors in one sentence each."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.course.solution import ENVIRONMENT_VARIABLE, REFERENCE

SCRIPTS = PROJECT_ROOT / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, REFERENCE)  # the command sets it
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("batch_generate")


def batch_generate(script: ModuleType, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(script.main)
    return CliRunner().invoke(app, arguments)


def test_texts_come_by_prompt_index_with_figures_and_a_log(script: ModuleType) -> None:
    done = batch_generate(script, "Count to 6.", "What is 8 + 5?", "--prefill-step", "10")
    assert done.stdout == "0: 1 2 3 4 5 6\n1: 8 + 5 = 13\n"
    assert done.exit_code == 0
    for text in (
        "request 0: prefill 10/14",
        "request 0: prefill 14/14",
        "request 1: first token",
        "request 1: stop after 8 tokens",
        "TTFT in ms: p50 ",
        "ITL  in ms: p50 ",
        "p99 ",
        "max ",
        "tokens/s",
    ):
        assert text in done.stderr


def test_a_request_that_fails_is_one_sentence_and_the_others_go_on(script: ModuleType) -> None:
    done = batch_generate(script, "Count to 6.", "Repeat: " + "oak " * 30, "--max-seq-len", "40")
    assert done.exit_code == 1
    assert done.stdout == "0: 1 2 3 4 5 6\n"
    assert done.stderr.strip().splitlines()[-1].startswith("Request 1 failed: ")


def test_prompts_come_from_a_file(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("Count to 3.\n\nLedger:\\noak: 12\\nfox: 7\\nWhat is fox?\n")
    done = batch_generate(script, "--file", str(file))
    assert done.stdout == "0: 1 2 3\n1: fox: 7\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hi", "  "), "Prompt 1 is empty"),
        (("hi", "--batch-size", "0"), "--batch-size must be at least 1, but is 0."),
        (("hi", "--prefill-step", "0"), "--prefill-step must be at least 1, but is 0."),
        (("hi", "--max-seq-len", "0"), "--max-seq-len must be at least 1, but is 0."),
        (("hi", "--max-seq-len", "9000"), "the model's context is 8192 tokens"),
        (("hi", "--file", "prompts.txt"), "Give prompts or --file, not both."),
        (("--file", "no such file"), "--file no such file cannot be read"),
        (("hi", "--model", "huge"), "There is no model named 'huge'"),
    ],
)
def test_bad_input_is_one_sentence(
    script: ModuleType, arguments: tuple[str, ...], message: str
) -> None:
    done = batch_generate(script, *arguments)
    assert done.exit_code != 0 and done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('raise NotImplementedError("Week 2 Day 6, Task 2: ...")', "is not there yet: Week 2 Day"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_student_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    package = tmp_path / "tiny_llm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "qwen3.py").write_text("Qwen3Model = lambda model: None\n")
    (package / "batch.py").write_text(f"def BatchScheduler(*_):\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, str(SCRIPTS / "batch_generate.py"), "hi", "--solution", "student"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_the_view_has_a_line_per_slot_and_one_for_the_queue(script: ModuleType) -> None:
    requests = [script.Progress(f"prompt {index}", 10 + index) for index in range(4)]
    view = script.View(requests, batch_size=2)

    def lines() -> list[str]:
        console = Console(width=90, file=None)
        with console.capture() as capture:
            console.print(view)
        return capture.get().rstrip("\n").split("\n")

    assert len(lines()) == 3 and lines()[-1].startswith("queue: 4 waiting, 0 of 4 done")
    for index in (0, 1):
        view.note_chunk(index)
        requests[index].prefilled = 5
    requests[0].text = "a text\nof two lines"
    assert "request 0" in lines()[0] and "5/10" in lines()[0]
    assert lines()[0].rstrip().endswith("a text of two lines")
    assert lines()[1].rstrip().endswith("prompt 1")
    view.note_chunk(2)
    requests[2].prefilled = 12
    assert len(lines()) == 4 and "request 2" in lines()[2]
    requests[1].end = "stop"
    view.note_chunk(3)
    assert "request 3" in lines()[1] and lines()[-1].startswith("queue: 1 waiting, 1 of 4 done")
