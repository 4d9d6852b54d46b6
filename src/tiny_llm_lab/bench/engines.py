"""Engines behind one interface: a solution package's scheduler, and mlx-lm's batch generator.

All of them decode greedily and end a request by its number of tokens only, so that the work is the
same. mlx-lm runs at its defaults but for the number of decode slots.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol


class EngineError(Exception):
    """An engine cannot do its work; the message says which one and why, in a sentence."""


class Session(Protocol):
    """One run of an engine."""

    def submit(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Hand in a request. Requests are numbered from 0 in this order."""

    def step(self) -> list[tuple[int, int]]:
        """Do one step of work; the new tokens as pairs of request number and token id, in order."""

    def close(self) -> None:
        """End the run and free what it holds."""


class Engine(Protocol):
    """Something that serves many requests with one model.

    Attributes:
        name: what tables call it.
        chunk: the largest prefill chunk, in tokens; None for whole prompts, or if it has its own.
    """

    name: str
    chunk: int | None

    def start(self, slots: int, max_seq_len: int) -> Session:
        """Start a run.

        Args:
            slots: how many requests are decoded together.
            max_seq_len: the most tokens of one request, prompt and answer together.
        """


class IdTokenizer:
    """Token ids in place of text: a prompt is a sequence of ids, and nothing ends an answer.

    It is its own detokenizer, which has no text.
    """

    eos_token_ids: frozenset[int] = frozenset()
    text = last_segment = ""

    @property
    def detokenizer(self) -> "IdTokenizer":
        """What a request adds its tokens to."""
        return self

    def encode(self, prompt: Sequence[int], add_special_tokens: bool = True) -> list[int]:
        """The ids themselves."""
        return list(prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        """No text."""
        return ""

    def reset(self) -> None:
        """Nothing to forget."""

    def add_token(self, token: int) -> None:
        """Nothing to add."""

    def finalize(self) -> None:
        """Nothing to complete."""


def solution_model(package: str, mlx_model: Any) -> Any:
    """The `Qwen3Model` of a solution package, with the weights of a model that mlx-lm loaded."""
    return importlib.import_module(f"{package}.qwen3").Qwen3Model(mlx_model)


class SolutionEngine:
    """The `BatchScheduler` of a solution package."""

    def __init__(self, name: str, package: str, model: Any, chunk: int | None) -> None:
        """Choose the largest prefill chunk.

        Args:
            name: what tables call it.
            package: `tiny_llm` or `tiny_llm_ref`.
            model: see `solution_model`; engines may share one.
            chunk: in tokens; None for whole prompts.
        """
        self.name, self.chunk = name, chunk
        self._scheduler: Any = importlib.import_module(f"{package}.batch").BatchScheduler
        self._model = model

    def start(self, slots: int, max_seq_len: int) -> "SolutionSession":
        """Start a run; see `Engine`."""
        chunk = max_seq_len if self.chunk is None else self.chunk
        scheduler = self._scheduler(self._model, IdTokenizer(), max_seq_len, slots, chunk)
        return SolutionSession(self.name, scheduler)


class SolutionSession:
    """One scheduler; see `Session`."""

    def __init__(self, name: str, scheduler: Any) -> None:
        """Keep a scheduler without requests."""
        self.name, self.scheduler = name, scheduler

    def submit(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Hand in a request."""
        self.scheduler.submit(prompt, max_tokens)

    def step(self) -> list[tuple[int, int]]:
        """A step of the scheduler.

        Raises:
            EngineError: a request ended with an error.
        """
        output = self.scheduler.step()
        for end in output.finished:
            if end.reason == "error":
                raise EngineError(f"{self.name}: request {end.prompt_idx} failed: {end.message}")
        return [(event.prompt_idx, event.token) for event in output.tokens]

    def close(self) -> None:
        """Drop the scheduler, and with it its caches."""
        self.scheduler = None


class MlxLmEngine:
    """mlx-lm's `BatchGenerator`: a decode step, then up to 8 prompts by 2,048 tokens, padded."""

    def __init__(self, model: Any) -> None:
        """Keep a model that mlx-lm loaded."""
        self.name = "mlx-lm"
        self.chunk: int | None = None
        self._model = model

    def start(self, slots: int, max_seq_len: int) -> "MlxLmSession":
        """Start a run; see `Engine`. `BatchGenerator` has 8 slots or more, and no `max_seq_len`."""
        from mlx_lm.generate import BatchGenerator

        return MlxLmSession(BatchGenerator(self._model, completion_batch_size=slots))


class MlxLmSession:
    """One batch generator; see `Session`."""

    def __init__(self, generator: Any) -> None:
        """Keep a generator without requests; it numbers them as we do."""
        self.generator = generator

    def submit(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Hand in a request."""
        self.generator.insert([list(prompt)], [max_tokens])

    def step(self) -> list[tuple[int, int]]:
        """A step of the generator."""
        _, responses = self.generator.next()
        return [(response.uid, response.token) for response in responses]

    def close(self) -> None:
        """Drop the generator, and with it its caches."""
        self.generator.close()
        self.generator = None
