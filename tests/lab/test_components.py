"""The interactive components: their directive, their files, and the vectors of their logic.

The vectors are what Python says. `schedule.json` is what schedulers do with a trace: those of the
reference on days 6 and 7, mlx-lm's, and one with a token budget that is written here. `mask.json`
is what masks look like. Here the vectors are compared with Python; check_book_in_browser.py
compares them with JavaScript. After a change, `python tests/lab/test_components.py` writes them.
"""

import json
import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import KVCache

import tiny_llm_ref.batch
from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.components import ATTRIBUTES, SCRIPTS, parse_component
from tiny_llm_lab.book.preprocessor import MARK, ChapterProcessor
from tiny_llm_lab.book.strict import build, check_pages
from tiny_llm_lab.course.manifest import load_course
from tiny_llm_ref.attention import chunked_attention_mask
from tiny_llm_ref.kv_cache import TinyKvFullCache

BOOK = PROJECT_ROOT / "book"
VECTORS = Path(__file__).parent / "component_vectors"
WHOLE = 10**6

# Milliseconds: per forward pass, token, pair of tokens (doubled), cached token, decoding request.
COST = {"c": 8, "b": 0.1, "a": 0.000005, "g": 0.001, "d": 0.5}


# A forward pass, as the simulator has it: {"chunks": [[request, tokens], ...], "decoded": [...]}.
Pass = dict[str, Any]


def pass_time(parts: list[tuple[int, int]], decodes: int) -> float:
    """The cost model's time of a pass, for chunks as pairs of cached and computed tokens."""
    time = float(COST["c"])
    for cached, tokens in parts:
        time += (
            COST["b"] * tokens
            + COST["a"] * (2 * cached * tokens + tokens * tokens)
            + COST["g"] * cached
        )
    return time + COST["d"] * decodes


class CountingModel:
    """After the token n it predicts n - 1; after 1, and after 0, the token 0, which ends a text.

    A prompt of nothing but n is therefore answered by n tokens, the end token included. The model
    serves both interfaces: `model(tokens, offset, caches)` and `model(tokens, cache=caches)`.
    """

    VOCAB_SIZE = 32

    def create_kv_cache(self) -> list[Any]:
        return [TinyKvFullCache()]

    def make_cache(self) -> list[Any]:
        return [KVCache()]

    def __call__(self, tokens: mx.array, offset: Any = 0, cache: Any = None) -> mx.array:
        content = mx.zeros((tokens.shape[0], 1, tokens.shape[1], 1))
        cache[0].update_and_fetch(content, content)
        after = mx.maximum(tokens.astype(mx.int32) - 1, 0)
        return (after[..., None] == mx.arange(self.VOCAB_SIZE)).astype(mx.float32)


class PlainTokenizer:
    """A prompt is "TOKEN LENGTH"; the token 0 is the end; there is no text."""

    eos_token_ids = frozenset([0])

    def encode(self, prompt: str, **_: Any) -> list[int]:
        token, length = map(int, prompt.split())
        return [token] * length

    @property
    def detokenizer(self) -> "PlainTokenizer":
        return PlainTokenizer()

    text = last_segment = ""

    def reset(self) -> None: ...

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None: ...


def day_6_step() -> Any:
    """`BatchScheduler.step` as day 6 writes it and day 7 changes it."""
    path = PROJECT_ROOT / "before/week_2_day_7/batch.py"
    names = dict(vars(tiny_llm_ref.batch))
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), names)
    return names["BatchScheduler"].step


class Day6Scheduler(tiny_llm_ref.batch.BatchScheduler):
    """The reference's scheduler as it is on day 6."""

    step = day_6_step()


class Ours:
    """A scheduler of the reference, observed step by step."""

    def __init__(self, scheduler_class: Any, slots: int, chunk: int | None) -> None:
        self.scheduler = scheduler_class(
            CountingModel(), PlainTokenizer(), WHOLE, slots, WHOLE if chunk is None else chunk
        )

    def submit(self, request: dict[str, int]) -> int:
        return self.scheduler.submit(f"{request['answer']} {request['prompt']}")

    def has_work(self) -> bool:
        return self.scheduler.has_work_remaining()

    def step(self) -> list[Pass]:
        output = self.scheduler.step()
        assert all(event.reason == "stop" for event in output.finished)
        passes: list[Pass] = [{"chunks": [list(chunk)], "decoded": []} for chunk in output.chunks]
        if output.decoded:
            passes.append({"chunks": [], "decoded": list(output.decoded)})
        return passes


class MlxLm:
    """mlx-lm's generator, observed step by step.

    It runs one token ahead: the step that hands a token out has already run the model on it. It
    therefore decodes an answer's last token, too, which has no use: for the same forward passes as
    in the simulator its answers are one token shorter. It has no answers of one token then.
    """

    def __init__(self, slots: int) -> None:
        self.generator = BatchGenerator(
            CountingModel(),
            stop_tokens=[[0]],
            completion_batch_size=slots,
            prefill_batch_size=min(8, slots),
        )
        self.unfinished: set[int] = set()
        self.done: dict[int, int] = {}

    def submit(self, request: dict[str, int]) -> int:
        assert request["answer"] > 1
        prompt = [request["answer"] - 1] * request["prompt"]
        uid: int = self.generator.insert([prompt])[0]
        self.unfinished.add(uid)
        return uid

    def has_work(self) -> bool:
        return bool(self.unfinished)

    def step(self) -> list[Pass]:
        prompts, tokens = self.generator.next()
        self.unfinished -= {answer.uid for answer in tokens if answer.finish_reason}
        last = [[prompt.uid, 1] for prompt in prompts if prompt.end_of_prompt]
        chunks = []
        for prompt in prompts:
            if not prompt.end_of_prompt:
                done = prompt.progress[0]
                chunks.append([prompt.uid, done - self.done.get(prompt.uid, 0)])
                self.done[prompt.uid] = done
        passes: list[Pass] = [
            {"chunks": [], "decoded": [answer.uid for answer in tokens]},
            {"chunks": last, "decoded": []},
            {"chunks": chunks, "decoded": []},
        ]
        return [entry for entry in passes if entry["chunks"] or entry["decoded"]]


class TokenBudget:
    """Every decode first, then prompts, oldest first, in what is left of a budget of tokens.

    So Sarathi-Serve (Agrawal et al., 2024, stall-free batching). A request has a slot from its
    first chunk on. Whoever gets a first token in a step decodes from the next one on.
    """

    def __init__(self, slots: int, budget: int | None) -> None:
        self.budget = WHOLE if budget is None else budget
        self.requests: list[dict[str, int]] = []  # what is left of each, in tokens
        self.in_slot: list[int | None] = [None] * slots

    def submit(self, request: dict[str, int]) -> int:
        self.requests.append({"prompt": request["prompt"], "answer": request["answer"]})
        return len(self.requests) - 1

    def has_work(self) -> bool:
        return any(request["answer"] for request in self.requests)

    def step(self) -> list[Pass]:
        decoded = [i for i in self.in_slot if i is not None and not self.requests[i]["prompt"]]
        left = self.budget - len(decoded)
        chunks = []
        for index, request in enumerate(self.requests):
            if left > 0 and request["prompt"] and (index in self.in_slot or None in self.in_slot):
                if index not in self.in_slot:
                    self.in_slot[self.in_slot.index(None)] = index
                chunks.append([index, min(left, request["prompt"])])
                left -= chunks[-1][1]
        for index, tokens in chunks:
            self.requests[index]["prompt"] -= tokens
        for index in (*decoded, *(i for i, _ in chunks if not self.requests[i]["prompt"])):
            self.requests[index]["answer"] -= 1
            if not self.requests[index]["answer"]:
                self.in_slot[self.in_slot.index(index)] = None
        return [{"chunks": chunks, "decoded": decoded}]


ENGINES: dict[str, Callable[[int, int | None], Ours | MlxLm | TokenBudget]] = {
    "chunk": lambda slots, chunk: Ours(tiny_llm_ref.batch.BatchScheduler, slots, chunk),
    "whole": lambda slots, _: Ours(Day6Scheduler, slots, None),
    "alternate": lambda slots, _: MlxLm(slots),
    "budget": TokenBudget,
}


def run_trace(policy: str, slots: int, chunk: int | None, requests: list[dict[str, int]]) -> Any:
    """Run requests through an engine, on the cost model's clock; what happened, as a vector."""
    engine = ENGINES[policy](slots, chunk)
    arriving = sorted(range(len(requests)), key=lambda index: requests[index]["arrival"])
    index_of: dict[int, int] = {}
    offsets = [0] * len(requests)
    steps = []
    now = 0.0
    while arriving or engine.has_work():
        if not engine.has_work():
            now = max(now, requests[arriving[0]]["arrival"])
        while arriving and requests[arriving[0]]["arrival"] <= now:
            index = arriving.pop(0)
            index_of[engine.submit(requests[index])] = index
        passes = engine.step()
        for entry in passes:
            entry["chunks"] = [[index_of[idx], tokens] for idx, tokens in entry["chunks"]]
            entry["decoded"] = [index_of[idx] for idx in entry["decoded"]]
            longest = max((tokens for _, tokens in entry["chunks"]), default=0)
            now += pass_time(
                [
                    (offsets[index], longest if policy == "alternate" else tokens)
                    for index, tokens in entry["chunks"]
                ],
                len(entry["decoded"]),
            )
            for index, tokens in entry["chunks"]:
                offsets[index] += tokens
        steps.append(passes)
    return {
        "policy": policy,
        "slots": slots,
        "chunk": chunk,
        "requests": requests,
        "steps": steps,
        "end": now,
    }


def request(arrival: int, prompt: int, answer: int) -> dict[str, int]:
    return {"arrival": arrival, "prompt": prompt, "answer": answer}


def schedule_vectors() -> Any:
    """Traces that were chosen, and random ones, through every engine."""
    alone = [request(7, 10, 3)]
    crowd = [request(0, 5 + 3 * index, 4) for index in range(5)]
    long_one = [request(0, 6, 9), request(0, 9, 9), request(25, 64, 3)]
    one_token = [request(0, 8, 1), request(0, 1, 1), request(0, 7, 2), request(0, 9, 1)]
    unsorted = [request(90, 20, 2), request(0, 33, 3), request(2000, 5, 2), request(0, 1, 5)]
    traces: list[tuple[str, int, int | None, list[dict[str, int]]]] = []
    for requests in (alone, crowd, long_one, one_token, unsorted):
        traces += [
            (policy, slots, chunk, requests)
            for policy in ("chunk", "budget")
            for slots, chunk in ((1, 8), (2, 16), (4, None))
        ]
        traces += [("whole", slots, None, requests) for slots in (1, 3)]
        if all(entry["answer"] > 1 for entry in requests):
            traces += [("alternate", slots, None, requests) for slots in (1, 3, 8)]
    numbers = random.Random(7)
    for policy in ENGINES:
        for _ in range(6):
            least, longest = (2, 4500) if policy == "alternate" else (1, 60)
            requests = [
                request(
                    numbers.randrange(0, 150),
                    numbers.randint(1, longest),
                    numbers.randint(least, 6),
                )
                for _ in range(numbers.randint(1, 8))
            ]
            slots, chunk = numbers.randint(1, 8), numbers.choice([1, 8, 16, 30, 64, None])
            traces.append(
                (policy, slots, chunk if policy in ("chunk", "budget") else None, requests)
            )
    return {"cost": COST, "cases": [run_trace(*trace) for trace in traces]}


def mask_vectors() -> Any:
    """Masks by their definition: row `i` may look at the columns up to `chunk_start + i`."""
    sizes = [
        (start, size, total)
        for total in range(1, 6)
        for size in range(1, total + 1)
        for start in range(total - size + 1)
    ]
    sizes += [(5, 4, 12), (0, 24, 24), (23, 1, 24), (8, 8, 24)]
    return [
        {
            "start": start,
            "size": size,
            "total": total,
            "rows": [
                "".join("1" if column <= start + row else "0" for column in range(total))
                for row in range(size)
            ],
        }
        for start, size, total in sizes
    ]


def as_text(vectors: Any) -> str:
    """Vectors as they are in their file: a case a line."""
    if isinstance(vectors, list):
        return "[\n" + ",\n".join(json.dumps(entry) for entry in vectors) + "\n]\n"
    cases = as_text(vectors["cases"]).rstrip()
    return f'{{"cost": {json.dumps(vectors["cost"])}, "cases": {cases}}}\n'


GENERATORS = {"schedule": schedule_vectors, "mask": mask_vectors}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_vectors_are_what_python_says(name: str) -> None:
    committed = (VECTORS / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(committed) == GENERATORS[name](), (
        f"{name}.json is out of date: run python tests/lab/test_components.py, then look at "
        "book/components and run pdm run check-book-in-browser"
    )


def test_the_masks_are_those_of_the_reference() -> None:
    for case in json.loads((VECTORS / "mask.json").read_text(encoding="utf-8")):
        mask = chunked_attention_mask(case["start"], case["size"], case["total"])
        rows = ["".join("1" if entry == 0 else "0" for entry in row) for row in mask.tolist()]
        assert rows == case["rows"]


def test_every_request_of_the_vectors_is_served_whole() -> None:
    """A vector in which nothing happens would prove nothing."""
    for case in json.loads((VECTORS / "schedule.json").read_text(encoding="utf-8"))["cases"]:
        passes = [entry for step in case["steps"] for entry in step]
        for index, sent in enumerate(case["requests"]):
            chunks = [n for entry in passes for idx, n in entry["chunks"] if idx == index]
            decodes = sum(entry["decoded"].count(index) for entry in passes)
            assert sum(chunks) == sent["prompt"]
            assert decodes == sent["answer"] - 1


def test_the_book_loads_the_scripts_of_every_component() -> None:
    config = tomllib.loads((BOOK / "book.toml").read_text(encoding="utf-8"))["output"]["html"]
    for scripts in SCRIPTS.values():
        paths = [f"components/{script}.js" for script in scripts]
        assert [path for path in config["additional-js"] if path in paths] == paths
    for path in (*config["additional-js"], *config["additional-css"]):
        assert (BOOK / path).is_file()
    assert {path.name for path in BOOK.glob("components/*.js")} == {
        Path(path).name for path in config["additional-js"] if path.startswith("components/")
    }


def test_the_scripts_name_no_other_host_and_are_no_modules() -> None:
    for path in BOOK.glob("components/*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|fetch\(|XMLHttpRequest|^\s*(import|export)\b", text, re.M)


# The directive.

FIGURE = (BOOK / "src/figures/mask-explorer.svg").read_text(encoding="utf-8")
CONFIG = """
[book]
title = "A tiny book"
[build]
create-missing = false
[preprocessor.tiny-llm]
command = "python -m tiny_llm_lab.book.preprocessor"
before = ["links"]
[output.html]
input-404 = ""
"""
SCRIPTS_OF_MASK = '["components/component.js", "components/mask.js", "components/mask-explorer.js"]'
DIRECTIVE = "{{#component mask-explorer start=5 size=4 | mask-explorer.svg | A `mask`, $4$ rows.}}"


def write_book(folder: Path, config: str, chapter: str) -> Path:
    (folder / "src/figures").mkdir(parents=True)
    (folder / "components").mkdir()
    for script in SCRIPTS["mask-explorer"]:
        path = f"components/{script}.js"
        (folder / path).write_text((BOOK / path).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "book.toml").write_text(config, encoding="utf-8")
    (folder / "src/SUMMARY.md").write_text("# Summary\n\n- [One](one.md)\n", encoding="utf-8")
    (folder / "src/one.md").write_text(chapter, encoding="utf-8")
    (folder / "src/figures/mask-explorer.svg").write_text(FIGURE, encoding="utf-8")
    return folder


def test_a_component_is_an_element_around_its_figure(tmp_path: Path) -> None:
    config = CONFIG + f"additional-js = {SCRIPTS_OF_MASK}\n"
    book = write_book(tmp_path / "book", config, f"# One\n\nText.\n\n{DIRECTIVE}\n\nMore.\n")
    assert build(book, tmp_path / "out") == []
    page = (tmp_path / "out" / "one.html").read_text(encoding="utf-8")
    element = re.search(r'<mask-explorer start="5" size="4">(.*)</mask-explorer>', page, re.S)
    assert element is not None
    assert re.match(r"\s*<figure>\s*<svg[^>]* role=\"img\"", element[1])
    assert "A <code>mask</code>, <math>" in element[1]
    assert element[1].rstrip().endswith("</figure>")
    assert "<p>More.</p>" in page.partition("</mask-explorer>")[2]


@pytest.mark.parametrize("scripts", ["[]", SCRIPTS_OF_MASK.replace('"components/mask.js", ', "")])
def test_a_page_without_the_scripts_of_its_component_does_not_pass(
    tmp_path: Path, scripts: str
) -> None:
    config = CONFIG + f"additional-js = {scripts}\n"
    book = write_book(tmp_path / "book", config, f"# One\n\n{DIRECTIVE}\n")
    problems = build(book, tmp_path / "out")
    assert any("holds a mask-explorer, but" in str(problem) for problem in problems), problems


def test_scripts_in_the_wrong_order_do_not_pass(tmp_path: Path) -> None:
    names = [f"components/{name}-0a1b2c3d.js" for name in SCRIPTS["mask-explorer"]]
    for order, count in ((names, 0), (names[::-1], 1)):
        scripts = "".join(f'<script src="{name}"></script>' for name in order)
        page = f"<mask-explorer></mask-explorer>{scripts}{MARK}"
        (tmp_path / "a.html").write_text(page, encoding="utf-8")
        assert len(check_pages(tmp_path, ["a.md"])) == count


@pytest.mark.parametrize(
    ("directive", "complaint"),
    [
        ("{{#component}}", 'the component "" is unknown'),
        ("{{#component clock | box.svg | A box.}}", 'the component "clock" is unknown'),
        ("{{#component mask-explorer}}", "has no figure for readers without scripts"),
        ("{{#component mask-explorer | A mask.}}", "has no figure for readers without scripts"),
        ("{{#component mask-explorer | gone.svg | A.}}", "figures/gone.svg does not exist"),
        ("{{#component mask-explorer | mask-explorer.svg}}", "has no caption"),
        ("{{#component mask-explorer | mask-explorer.svg | $}}", "has no partner"),
        ("{{#component mask-explorer rows=2 | mask-explorer.svg | A.}}", "no attribute rows"),
        (
            "{{#component mask-explorer size=two | mask-explorer.svg | A.}}",
            'size of mask-explorer cannot be "two"',
        ),
        (
            "{{#component schedule-simulator preset=x | mask-explorer.svg | A.}}",
            'preset of schedule-simulator cannot be "x"',
        ),
        ("See {{#component mask-explorer | mask-explorer.svg | A.}}", "a line of its own"),
    ],
)
def test_a_wrong_directive_is_reported(tmp_path: Path, directive: str, complaint: str) -> None:
    book = write_book(tmp_path, CONFIG, "")
    processor = ChapterProcessor(load_course(), book / "src", "one.md")
    processor.process(f"# One\n\n{directive}\n")
    assert [problem.line for problem in processor.problems] == [3]
    assert complaint in processor.problems[0].message


def test_attributes_become_html() -> None:
    component = parse_component("schedule-simulator preset=mixed chunk=whole | a.svg | A | b.")
    assert component.attributes == 'preset="mixed" chunk="whole"'
    assert component.figure == "a.svg | A | b."
    assert set(ATTRIBUTES) == set(SCRIPTS)


if __name__ == "__main__":
    for vectors_name, generate in GENERATORS.items():
        (VECTORS / f"{vectors_name}.json").write_text(as_text(generate()), encoding="utf-8")
