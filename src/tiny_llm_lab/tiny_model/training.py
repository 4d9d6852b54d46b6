"""The training recipe: seeded batches, stages of growing length, Muon and AdamW, checkpoints."""

import math
import random
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from .corpus import PAD, conversation
from .torch_model import ModelConfig, Qwen3

# Tokens that an answer may take of a row; logits are computed for no more than that.
ANSWER_SHARE = 0.5
CHECKPOINT_EVERY = 100
WARMUP_STEPS = 100
DECAY_SHARE = 0.4
FINAL_LR_SHARE = 0.02
PREFETCH = 4


@dataclass(frozen=True)
class Stage:
    """A number of steps with rows of one length."""

    length: int
    rows: int
    steps: int
    ledger_share: float


@dataclass(frozen=True)
class Phase:
    """Stages under one learning-rate schedule: warm-up, flat, linear decay."""

    stages: tuple[Stage, ...]
    learning_rate: float

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, beside the tokenizer and the corpus."""

    model: ModelConfig
    phases: tuple[Phase, ...]
    largest_jump: int  # of the position ids, in tokens
    seed: int

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True)
class Batch:
    """One step's rows: tokens and positions `B x L`, answer places and their tokens `N`."""

    tokens: np.ndarray
    positions: np.ndarray
    places: np.ndarray
    answers: np.ndarray


_tokenizer: Tokenizer


def _load_tokenizer(text: str) -> None:
    global _tokenizer
    _tokenizer = Tokenizer.from_str(text)


def make_batch(seed: int, step: int, stage: Stage, largest_jump: int) -> Batch:
    """Make the rows of one step: the same ones whenever it is asked for that step."""
    rng = random.Random(f"batch-{seed}-{step}")
    pad = _tokenizer.token_to_id(PAD)
    L = stage.length
    tokens = np.full((stage.rows, L + 1), pad, np.int64)
    answer = np.zeros((stage.rows, L + 1), bool)
    positions = np.tile(np.arange(L), (stage.rows, 1))
    for row in range(stage.rows):
        size = L if rng.random() > 0.15 else max(96, L // rng.choice([2, 4]))
        # `conversation` counts tokens roughly, and too many: ask for more than fits.
        segments = conversation(rng, int(1.3 * size), stage.ledger_share)
        place = 0
        encodings = _tokenizer.encode_batch([text for text, _ in segments])
        for (_, is_answer), encoding in zip(segments, encodings, strict=True):
            ids = encoding.ids[: L + 1 - place]
            tokens[row, place : place + len(ids)] = ids
            answer[row, place : place + len(ids)] = is_answer
            place += len(ids)
        if rng.random() < 0.5:
            # Jumps in the positions make distances that rows of this length do not have.
            for _ in range(rng.choice([1, 1, 2, 3])):
                jump = int(math.exp(rng.uniform(0, math.log(largest_jump))))
                positions[row, rng.randrange(1, L) :] += jump
    places = np.flatnonzero(answer[:, 1:].reshape(-1))
    answers = tokens[:, 1:].reshape(-1)[places]
    # Always the same number of places, so that the compiled model has one shape per stage.
    size = int(stage.rows * L * ANSWER_SHARE)
    if len(places) > size:
        kept = np.sort(np.random.default_rng([seed, step]).permutation(len(places))[:size])
        places, answers = places[kept], answers[kept]
    missing = size - len(places)
    return Batch(
        tokens[:, :-1].copy(),
        positions,
        np.concatenate([places, np.zeros(missing, np.int64)]),
        np.concatenate([answers, np.full(missing, -100)]),
    )


def _batches(recipe: Recipe, tokenizer: Tokenizer, first: int) -> Iterator[Batch]:
    """The batches from a step on, made ahead in another process."""
    stage_of = [
        stage for phase in recipe.phases for stage in phase.stages for _ in range(stage.steps)
    ]
    with ProcessPoolExecutor(
        1, initializer=_load_tokenizer, initargs=(tokenizer.to_str(),)
    ) as pool:
        ahead: list[Future[Batch]] = []
        step = first
        while ahead or step < recipe.steps:
            while step < recipe.steps and len(ahead) < PREFETCH:
                stage = stage_of[step]
                ahead.append(pool.submit(make_batch, recipe.seed, step, stage, recipe.largest_jump))
                step += 1
            yield ahead.pop(0).result()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, flat, then linear decay over the last part, in every phase."""
    for phase in recipe.phases:
        if step < phase.steps:
            break
        step -= phase.steps
    decay = min(1.0, max(FINAL_LR_SHARE, (1 - step / phase.steps) / DECAY_SHARE))
    return phase.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS) * decay


def train(
    recipe: Recipe, tokenizer: Tokenizer, checkpoint: Path, log: Path, threads: int
) -> dict[str, np.ndarray]:
    """Train a model, resuming from `checkpoint` if it is of the same recipe.

    Returns:
        The weights by name, float32.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Qwen3(recipe.model).to(device)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(
            matrices,
            lr=recipe.phases[0].learning_rate,
            weight_decay=0.05,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            others,
            lr=recipe.phases[0].learning_rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        ),
    ]
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["recipe"] == repr(asdict(recipe)):
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            first = state["step"]
    compiled = torch.compile(model, dynamic=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    average = float("nan")
    with Progress(*columns) as progress, log.open("a") as lines:
        bar = progress.add_task("training", total=recipe.steps, completed=first, loss=average)
        for step, batch in enumerate(_batches(recipe, tokenizer, first), start=first):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step)
            tensors = [
                torch.from_numpy(a).to(device)
                for a in (batch.tokens, batch.positions, batch.places, batch.answers)
            ]
            with torch.autocast(device, torch.bfloat16):
                logits = compiled(*tensors[:3])
            loss = F.cross_entropy(logits.float(), tensors[3], ignore_index=-100)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            value = loss.item()
            average = value if math.isnan(average) else 0.95 * average + 0.05 * value
            progress.update(bar, advance=1, loss=average)
            if (step + 1) % 25 == 0:
                print(
                    f"step {step + 1} length {batch.tokens.shape[1]} loss {average:.4f}", file=lines
                )
                lines.flush()
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.steps:
                torch.save(
                    {
                        "recipe": repr(asdict(recipe)),
                        "step": step + 1,
                        "model": model.state_dict(),
                        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    },
                    checkpoint,
                )
    return {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}
