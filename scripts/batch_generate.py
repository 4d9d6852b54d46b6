"""`pdm run batch-generate`: many prompts at once, with a view of what the scheduler does.

The texts go to stdout, by prompt index; the figures, and the log of `--plain`, to stderr.
"""

import importlib
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tiny_llm_lab.cli import fail, fail_of_student, run, use_solution
from tiny_llm_lab.course.solution import REFERENCE, STUDENT

SECONDS_PER_FRAME = 0.05
SHORT_DEMO = [
    "Hello!",
    "Count from 1 to 60.",
    "Tell me a story about Mia and a cat.",
    "What is 8 + 5?",
    "Repeat: red oak blue fox",
    "Count from 20 to 75.",
    "Tell me a story about Tom and a boat.",
    "What is the capital of France?",
]


class Solution(StrEnum):
    """Whose scheduler runs."""

    student = "student"
    ref = "ref"


PACKAGES = {Solution.student: STUDENT, Solution.ref: REFERENCE}


@dataclass
class Progress:
    """What has happened to one request."""

    prompt: str
    prompt_tokens: int
    prefilled: int = 0
    text: str = ""
    token_times: list[float] = field(default_factory=list)
    end: str = ""
    error: str = ""


class View:
    """The lines on the screen: one for each slot and what is prefilled for it, one for the queue.

    A request takes the first free line with its first chunk, and leaves it when another needs it
    after its end.
    """

    def __init__(self, requests: list[Progress], batch_size: int) -> None:
        """Start with empty lines; one more than slots, since a prefilled request may wait."""
        self.requests = requests
        self.lines: list[int | None] = [None] * (batch_size + 1)

    def note_chunk(self, index: int) -> None:
        """Give a request a line, if it has none."""
        if index not in self.lines:
            free = [
                line
                for line, shown in enumerate(self.lines)
                if shown is None or self.requests[shown].end
            ]
            self.lines[free[0]] = index

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """Draw the lines, as `rich` asks for them."""
        grid = Table.grid(padding=(0, 1))
        for column in ("request", "prefill", "tokens"):
            grid.add_column(column, no_wrap=True)
        grid.add_column("text", no_wrap=True, ratio=1)
        room = max(10, console.width - 48)
        for index in self.lines[:-1] if self.lines[-1] is None else self.lines:
            if index is None:
                grid.add_row(Text("-", style="dim"))
                continue
            request = self.requests[index]
            done = request.prefilled == request.prompt_tokens
            tail = (request.text or request.prompt[:room]).replace("\n", " ")
            style = "red" if request.error else "green" if request.end else ""
            grid.add_row(
                Text(f"request {index}", style=style),
                ProgressBar(total=request.prompt_tokens, completed=request.prefilled, width=16),
                f"{request.prefilled:,}/{request.prompt_tokens:,}",
                Text(tail[-room:], style="" if done else "dim"),
            )
        yield grid
        waiting = sum(not request.prefilled and not request.end for request in self.requests)
        ended = sum(bool(request.end) for request in self.requests)
        yield Text(f"queue: {waiting} waiting, {ended} of {len(self.requests)} done", style="dim")


def demo() -> list[str]:
    """One long ledger among short prompts: its prefill is what the others must not notice."""
    from tiny_llm_lab.tiny_model.words import ANIMALS, FOODS, THINGS

    rng = random.Random(7)
    names = rng.sample(sorted({*ANIMALS, *FOODS, *THINGS}), 150)
    ledger = "".join(f"{name}: {rng.randrange(1000)}\n" for name in names)
    question = f"Ledger:\n{ledger}What is {names[20]}?"
    return [*SHORT_DEMO[:3], question, *SHORT_DEMO[3:]]


def read_prompts(file: Path) -> list[str]:
    r"""The prompts of a file, one per line; `\n` in a line is a line break."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--file {file} cannot be read: {error}.")
    prompts = [line.replace("\\n", "\n") for line in lines if line.strip()]
    if not prompts:
        fail(f"--file {file} holds no prompt: write one per line.")
    return prompts


def follow(
    scheduler: Any,
    requests: list[Progress],
    on_event: Callable[[float, str], None],
    on_step: Callable[[list[int]], None],
) -> None:
    """Run a scheduler to the end, and note what happens to its requests.

    Args:
        scheduler: all requests have been submitted, in order.
        requests: one for each of them.
        on_event: told of chunks, first tokens and ends: seconds after the start, and words.
        on_step: told after each step whose chunks ran.
    """
    start = time.perf_counter()
    while True:
        output = scheduler.step()
        now = time.perf_counter() - start
        for index, processed in output.chunks:
            request = requests[index]
            request.prefilled += processed
            on_event(
                now, f"request {index}: prefill {request.prefilled:,}/{request.prompt_tokens:,}"
            )
        for event in output.tokens:
            request = requests[event.prompt_idx]
            request.text += event.text
            if not request.token_times:
                on_event(now, f"request {event.prompt_idx}: first token")
            request.token_times.append(now)
        for end in output.finished:
            request = requests[end.prompt_idx]
            request.text += end.text
            request.end, request.error = end.reason, end.message
            tokens = len(request.token_times)
            on_event(now, f"request {end.prompt_idx}: {end.reason} after {tokens} tokens")
        on_step([index for index, _ in output.chunks])
        if not scheduler.has_work_remaining():
            return


def figures(requests: list[Progress]) -> list[str]:
    """TTFT, ITL and throughput, as lines."""
    from tiny_llm_lab.bench import metrics

    times = [metrics.RequestTimes(0.0, r.token_times) for r in requests if r.token_times]
    if not times:
        return ["no token was generated"]
    found = metrics.summary(times)
    lines = [
        f"{sum(request.prompt_tokens for request in requests):,} prompt tokens, "
        f"{sum(len(request.tokens) for request in times):,} generated in {found['seconds']:.2f} s: "
        f"{found['tokens_per_second']:,.1f} tokens/s"
    ]
    for name in ("ttft", "itl"):
        cells = [
            f"{column} {1000 * found[f'{name}_{column}']:,.0f}"
            for column in (*(f"p{p}" for p in metrics.PERCENTILES), "max")
            if f"{name}_{column}" in found
        ]
        if cells:
            lines.append(f"{name.upper():<4} in ms: {', '.join(cells)}")
    return lines


def main(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Messages to the model; without any, a demonstration."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read the messages from a file, one per line.")
    ] = None,
    solution: Annotated[
        Solution, typer.Option(help="Your scheduler, or the reference's.")
    ] = Solution.ref,
    model: Annotated[
        str, typer.Option(help="As in generate, or random:small, which needs no download.")
    ] = "tiny",
    batch_size: Annotated[int, typer.Option(help="The number of decode slots.")] = 4,
    prefill_step: Annotated[int, typer.Option(help="The largest prefill chunk, in tokens.")] = 128,
    max_seq_len: Annotated[
        int, typer.Option(help="The most tokens of a request, prompt and answer together.")
    ] = 2048,
    plain: Annotated[bool, typer.Option("--plain", help="A log instead of the live view.")] = False,
) -> None:
    """Generate texts from many prompts by continuous batching, and print how long it took."""
    if prompts and file:
        fail("Give prompts or --file, not both.")
    for name, number in (
        ("--batch-size", batch_size),
        ("--prefill-step", prefill_step),
        ("--max-seq-len", max_seq_len),
    ):
        if number < 1:
            fail(f"{name} must be at least 1, but is {number}.")
    messages = read_prompts(file) if file else (prompts or demo())
    for index, message in enumerate(messages):
        if not message.strip():
            fail(f"Prompt {index} is empty: say something.")
    use_solution(PACKAGES[solution])

    # Not above: these take a second or two, which --help and a wrong option need not cost.
    from tiny_llm_lab.generation import chat_prompt
    from tiny_llm_lab.models import ModelError, load_model

    try:
        mlx_model, tokenizer = load_model(model)
    except ModelError as error:
        fail(str(error), exit_code=1)
    context = mlx_model.args.max_position_embeddings
    if max_seq_len > context:
        fail(f"--max-seq-len is {max_seq_len}, but the model's context is {context} tokens.")

    texts = [chat_prompt(tokenizer, message) for message in messages]
    requests = [
        Progress(message, len(tokenizer.encode(text, add_special_tokens=False)))
        for message, text in zip(messages, texts, strict=True)
    ]
    view = View(requests, batch_size)
    drawn = time.perf_counter()

    def log(seconds: float, event: str) -> None:
        print(f"{seconds:8.3f} s  {event}", file=sys.stderr)

    def nothing(*_: object) -> None:
        pass

    try:
        package = PACKAGES[solution]
        batch = importlib.import_module(f"{package}.batch")
        qwen3 = importlib.import_module(f"{package}.qwen3")
        scheduler = batch.BatchScheduler(
            qwen3.Qwen3Model(mlx_model), tokenizer, max_seq_len, batch_size, prefill_step
        )
        for text in texts:
            scheduler.submit(text)
        if plain or not sys.stdout.isatty():
            follow(scheduler, requests, log, nothing)
        else:
            # No thread that draws: it would take time from the scheduler.
            with Live(view, auto_refresh=False, transient=True) as live:

                def draw(chunks: list[int]) -> None:
                    nonlocal drawn
                    for index in chunks:
                        view.note_chunk(index)
                    if time.perf_counter() - drawn > SECONDS_PER_FRAME:
                        live.refresh()
                        drawn = time.perf_counter()

                follow(scheduler, requests, nothing, draw)
    except Exception as error:
        if solution is not Solution.student:
            raise
        fail_of_student(error)

    for index, request in enumerate(requests):
        if not request.error:
            print(f"{index}: " + request.text.replace("\n", "\n" + " " * len(f"{index}: ")))
    sys.stdout.flush()
    print("\n".join(["", f"{solution.value} | {model}", *figures(requests)]), file=sys.stderr)
    failed = {index: request for index, request in enumerate(requests) if request.error}
    for index, request in failed.items():
        message = " ".join(request.error.split())
        stub, _, task = message.partition("NotImplementedError: ")
        if task and not stub:  # the scheduler turns every exception into the end of a request
            fail(f"Your solution is not there yet: {task}", exit_code=1)
        print(f"Request {index} failed: {message}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    run(main)
