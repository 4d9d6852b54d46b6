"""`pdm run generate "..."`: generate text with the reference, your solution, or mlx-lm."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from tiny_llm_lab.cli import fail, fail_of_student, run, use_solution
from tiny_llm_lab.course.solution import REFERENCE, STUDENT


class Solution(StrEnum):
    """Whose code runs the model."""

    student = "student"
    ref = "ref"
    mlx = "mlx"


PACKAGES = {Solution.student: STUDENT, Solution.ref: REFERENCE}


def main(
    prompt: Annotated[str, typer.Argument(help="Your message to the model.")],
    solution: Annotated[
        Solution, typer.Option(help="Your code, the reference, or mlx-lm on the same model.")
    ] = Solution.ref,
    model: Annotated[
        str,
        typer.Option(
            help="tiny (embedded, no download), qwen3-0.6b, qwen3-1.7b, qwen3-4b, a folder, "
            "or a Hugging Face Hub id."
        ),
    ] = "tiny",
    temp: Annotated[float, typer.Option(help="Temperature; 0 is greedy.")] = 0.0,
    top_p: Annotated[float | None, typer.Option(help="Keep this much probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep this many tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Generate at most this many tokens.")] = 256,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Keep the weights quantized (week 2, day 2).")
    ] = False,
    flash: Annotated[
        bool, typer.Option("--flash", help="Use flash attention (week 2, day 4).")
    ] = False,
) -> None:
    """Generate text, streaming it, and print how long it took."""
    if not prompt.strip():
        fail('The prompt is empty: say something, as in pdm run generate "Count to 5."')
    if max_tokens < 1:
        fail(f"--max-tokens must be at least 1, but is {max_tokens}.")
    if temp < 0:
        fail(f"--temp must not be negative, but is {temp}.")
    if top_p is not None and not 0 <= top_p <= 1:
        fail(f"--top-p must be between 0 and 1, but is {top_p}.")
    if top_k is not None and top_k < 0:
        fail(f"--top-k must not be negative, but is {top_k}.")
    if solution is Solution.mlx and (quantized or flash):
        fail("--quantized and --flash are for your code and the reference: mlx-lm has its own.")
    if solution is not Solution.mlx:
        use_solution(PACKAGES[solution])

    # Not above: these take a second or two, which --help and a wrong option need not cost.
    import mlx.core as mx

    from tiny_llm_lab import generation
    from tiny_llm_lab.models import ModelError, load_model

    try:
        mlx_model, tokenizer = load_model(model)
    except ModelError as error:
        fail(str(error), exit_code=1)
    text = generation.chat_prompt(tokenizer, prompt)
    length = len(tokenizer.encode(text, add_special_tokens=False))
    context = mlx_model.args.max_position_embeddings
    if length + max_tokens > context:
        fail(
            f"The prompt has {length} tokens, which with --max-tokens {max_tokens} does not fit "
            f"into the model's context of {context} tokens: shorten it or lower --max-tokens."
        )
    if seed is not None:
        mx.random.seed(seed)

    def print_text(segment: str) -> None:
        print(segment, end="", flush=True)

    settings = generation.GenerationSettings(temp, top_p, top_k, max_tokens)
    try:
        if solution is Solution.mlx:
            times = generation.generate_with_mlx_lm(
                mlx_model, tokenizer, text, settings, print_text
            )
        else:
            package = PACKAGES[solution]
            ours = generation.make_model(package, mlx_model, quantized, flash)
            times = generation.generate_with_solution(
                package, ours, tokenizer, text, settings, print_text
            )
    except Exception as error:
        if solution is not Solution.student:
            raise
        fail_of_student(error)
    print()
    print(f"\n{solution.value} | {model} | {times}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
