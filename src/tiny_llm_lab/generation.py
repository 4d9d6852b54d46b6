"""Runs one prompt through a solution package or through mlx-lm, and takes the times."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GenerationSettings:
    """How to sample (see `make_sampler`) and when to stop."""

    temp: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int = 256


@dataclass(frozen=True)
class GenerationTimes:
    """When the tokens of one generation came, in seconds after its start."""

    prompt_tokens: int
    token_times: list[float]

    @property
    def time_to_first_token(self) -> float:
        """TTFT, in seconds."""
        return self.token_times[0]

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens over TTFT."""
        return self.prompt_tokens / self.time_to_first_token

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens after the first over the time since the first; None without a second token."""
        if len(self.token_times) < 2:
            return None
        return (len(self.token_times) - 1) / (self.token_times[-1] - self.token_times[0])

    def __str__(self) -> str:
        """The figures in one line."""
        if not self.token_times:
            return f"{self.prompt_tokens} prompt tokens, no token generated"
        decode = self.decode_tokens_per_second
        return (
            f"{self.prompt_tokens} prompt tokens, {len(self.token_times)} generated | "
            f"time to first token {self.time_to_first_token * 1000:.0f} ms | "
            f"prefill {self.prefill_tokens_per_second:,.0f} tokens/s | "
            f"decode {'-' if decode is None else f'{decode:,.0f} tokens/s'}"
        )


def chat_prompt(tokenizer: Any, message: str) -> str:
    """Apply the chat template to one user message, up to where the assistant's answer starts."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": message}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )


def make_model(package: str, mlx_model: Any, quantized: bool = False, flash: bool = False) -> Any:
    """A solution package's model, as plain as in week 1, or with the kernels of week 2.

    Args:
        package: `tiny_llm` or `tiny_llm_ref`.
        mlx_model: what `load_model` gives.
        quantized: keep the weights quantized (day 2).
        flash: use flash attention (day 4).
    """
    options: dict[str, Any] = {"quantized": True} if quantized else {}
    if flash:
        attention = importlib.import_module(f"{package}.attention")
        options["attention"] = attention.flash_attention
    return importlib.import_module(f"{package}.qwen3").Qwen3Model(mlx_model, **options)


def generate_with_solution(
    package: str,
    model: Any,
    tokenizer: Any,
    prompt: str,
    settings: GenerationSettings,
    on_text: Callable[[str], None],
) -> GenerationTimes:
    """Generate with a solution package and its model, see `make_model`."""
    generate = importlib.import_module(f"{package}.generate")
    sampler = None
    if settings.temp > 0:  # so that greedy decoding runs before day 7 is done
        sampler = importlib.import_module(f"{package}.sampler").make_sampler(
            settings.temp, settings.top_p, settings.top_k
        )
    times: list[float] = []
    segments: list[str] = []

    def note_token(segment: str) -> None:
        times.append(time.perf_counter() - start)
        segments.append(segment)
        on_text(segment)

    def run(loop: Callable[..., str]) -> str:
        return loop(
            model, tokenizer, prompt, sampler, max_tokens=settings.max_tokens, on_text=note_token
        )

    start = time.perf_counter()
    try:
        text = run(generate.simple_generate_with_kv_cache)
    except NotImplementedError:  # a student of week 1
        start = time.perf_counter()
        text = run(generate.simple_generate)
    if not segments and text:
        on_text(text)
    return GenerationTimes(len(tokenizer.encode(prompt, add_special_tokens=False)), times)


def generate_with_mlx_lm(
    mlx_model: Any,
    tokenizer: Any,
    prompt: str,
    settings: GenerationSettings,
    on_text: Callable[[str], None],
) -> GenerationTimes:
    """Generate with mlx-lm on the same model."""
    from mlx_lm import stream_generate
    from mlx_lm.sample_utils import make_sampler

    tokens = tokenizer.encode(prompt, add_special_tokens=False)
    sampler = make_sampler(settings.temp, top_p=settings.top_p or 0.0, top_k=settings.top_k or 0)
    times: list[float] = []
    start = time.perf_counter()
    for response in stream_generate(
        mlx_model, tokenizer, tokens, max_tokens=settings.max_tokens, sampler=sampler
    ):
        if response.finish_reason != "stop":
            times.append(time.perf_counter() - start)
        on_text(response.text)
    return GenerationTimes(len(tokens), times)
