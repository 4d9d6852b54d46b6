"""`pdm run score-tiny-model`: score an embedded model on held-out prompts."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tiny_llm_lab.cli import fail, run

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"


def main(
    model: Annotated[str, typer.Option(help="The model to score: a name or a folder.")] = "tiny",
    prompts: Annotated[int, typer.Option(help="Prompts of each category.")] = 200,
    card: Annotated[Path | None, typer.Option(help="A model card to write the table into.")] = None,
) -> None:
    """Print the share of exactly right answers, as a table and as one line of JSON."""
    if prompts < 1:
        fail(f"--prompts must be at least 1, but is {prompts}.")
    if card is not None and not (card.is_file() and BEGIN in card.read_text(encoding="utf-8")):
        fail(f"{card} is no model card with a line {BEGIN!r}.")
    from tiny_llm_lab.models import ModelError, load_model
    from tiny_llm_lab.tiny_model.evaluation import categories, score

    try:
        mlx_model, tokenizer = load_model(model)
    except ModelError as error:
        fail(str(error), exit_code=1)
    console = Console(stderr=True)
    results = {}
    for category in categories():
        answers = track(
            score(mlx_model, tokenizer, category, prompts),
            description=f"{category.name:<40}",
            total=prompts,
            console=console,
            transient=True,
        )
        results[category.name] = sum(answers) / prompts
    rows = [(category.name, results[category.name], category.target) for category in categories()]
    table = Table("exact match", "right", "aimed for")
    for name, share, target in rows:
        style = "" if target is None or share >= target else "red"
        table.add_row(name, f"{share:.1%}", "" if target is None else f"{target:.0%}", style=style)
    console.print(table)
    print(json.dumps({"model": model, "prompts": prompts, "right": results}))
    if card is not None:
        lines = [f"| exact match, {prompts} prompts each | right | aimed for |", "|---|---|---|"]
        lines += [
            f"| {name} | {share:.1%} | {'' if target is None else f'{target:.0%}'} |"
            for name, share, target in rows
        ]
        before, rest = card.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        card.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", "utf-8")


if __name__ == "__main__":
    run(main)
