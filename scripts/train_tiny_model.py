"""`pdm run train-tiny-model`: regenerate the embedded models from seeds.

Corpus, tokenizer and weights follow from the seed and the recipes below. Training resumes from the
checkpoint in the work folder if it was interrupted. The scores come from score_tiny_model.py.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.cli import fail, run

SEED = 1


def main(
    output: Annotated[Path, typer.Option(help="Where the model folders go.")] = (
        PROJECT_ROOT / "models"
    ),
    work: Annotated[Path, typer.Option(help="Where checkpoints and logs go.")] = (
        PROJECT_ROOT / ".tiny-llm" / "training"
    ),
    only: Annotated[str | None, typer.Option(help="tiny-qwen3 or tiny-qwen3-draft.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """Train the tokenizer, the model and the draft model, and write their folders."""
    try:
        from tiny_llm_lab.tiny_model.torch_model import ModelConfig
        from tiny_llm_lab.tiny_model.training import Phase, Recipe, Stage, train
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        fail("PyTorch is missing: install it by `pdm install -L pdm.train.lock -G train`.")
    from tiny_llm_lab.tiny_model.export import export
    from tiny_llm_lab.tiny_model.tokenizer import VOCAB_SIZE, save_tokenizer, train_tokenizer

    recipes = {
        "tiny-qwen3": Recipe(
            model=ModelConfig(VOCAB_SIZE),
            phases=(
                Phase(
                    stages=(
                        Stage(length=128, rows=32, steps=1600, ledger_share=0.8),
                        Stage(length=256, rows=24, steps=1100, ledger_share=0.65),
                        Stage(length=512, rows=12, steps=500, ledger_share=0.65),
                        Stage(length=1024, rows=6, steps=500, ledger_share=0.65),
                        Stage(length=2048, rows=3, steps=120, ledger_share=0.65),
                    ),
                    learning_rate=3e-3,
                ),
                Phase(
                    stages=(
                        Stage(length=256, rows=24, steps=180, ledger_share=0.8),
                        Stage(length=512, rows=12, steps=140, ledger_share=0.8),
                        Stage(length=1024, rows=6, steps=180, ledger_share=0.8),
                        Stage(length=2048, rows=3, steps=200, ledger_share=0.8),
                    ),
                    learning_rate=1.5e-3,
                ),
            ),
            largest_jump=1024,
            seed=SEED,
        ),
        "tiny-qwen3-draft": Recipe(
            model=ModelConfig(
                VOCAB_SIZE,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=320,
            ),
            phases=(
                Phase(
                    stages=(
                        Stage(length=128, rows=32, steps=1000, ledger_share=0.5),
                        Stage(length=256, rows=24, steps=400, ledger_share=0.5),
                    ),
                    learning_rate=3e-3,
                ),
            ),
            largest_jump=1024,
            seed=SEED,
        ),
    }
    if only is not None and only not in recipes:
        fail(f"There is no model {only!r} to train: the models are {' and '.join(recipes)}.")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(SEED)
    for name, recipe in recipes.items():
        if only not in (None, name):
            continue
        print(f"{name}: {recipe.steps} steps")
        weights = train(
            recipe,
            tokenizer,
            checkpoint=work / f"{name}.pt",
            log=work / f"{name}.log",
            threads=threads or os.cpu_count() or 1,
        )
        export(weights, dataclasses.asdict(recipe.model), output / name)
        save_tokenizer(tokenizer, output / name)
        size = sum(file.stat().st_size for file in (output / name).iterdir())
        print(f"{output / name}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    run(main)
