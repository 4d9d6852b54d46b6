"""Week 1, day 6: the generation loop."""

from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
)

from inputs import cases, float64
from oracle_models import chat, continue_greedily, ledger_question, tiny
from scripted import (
    END_OF_CALL,
    END_OF_TEXT,
    END_OF_TURN,
    START,
    ScriptedModel,
    byte_tokenizer,
    ids_of,
    one_by_one,
)
from solution import generate, qwen3
from tiny_llm_lab.course.checks import (
    assert_close,
    assert_raises_clearly,
    assert_text_equal,
    assert_tokens_equal,
    check,
)

PROMPT = "Once upon a time"


def model_saying(
    tokenizer: TokenizerWrapper, script: str | list[int], prompt: str = PROMPT
) -> ScriptedModel:
    """A model that continues the prompt with a text, and then with question marks for ever."""
    return ScriptedModel(
        ids_of(tokenizer, prompt),
        ids_of(tokenizer, script) if isinstance(script, str) else script,
        decoy=ids_of(tokenizer, "?")[0],
        vocab_size=len(tokenizer.get_vocab()),
    )


def sampler_choosing(tokens: list[int]) -> Callable[[mx.array], mx.array]:
    """A sampler that picks these tokens, one at each call, whatever the log-probabilities are."""
    choices = chain(tokens, repeat(tokens[-1]))
    return lambda _: mx.array([next(choices)])


# --- Task 1: the generation loop -------------------------------------------------------------


def test_task_1_gives_the_continuation() -> None:
    """The result is the text of the most probable tokens, without the prompt."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there was one.")
    text = generate.simple_generate(model, tokenizer, PROMPT, max_tokens=len(model.script))
    check(
        text != "",
        "simple_generate(model, tokenizer, prompt) returns no text.\n"
        "  expected   'there was one.'\n"
        "  got        ''\n"
        "  `tokenizer.detokenizer` is a new object at every access: is one kept for all tokens?",
    )
    assert_text_equal(text, "there was one.", what="simple_generate(model, tokenizer, prompt)")


def test_task_1_the_model_sees_the_whole_sequence_each_time() -> None:
    """Step by step the model gets the prompt and all tokens so far, exactly as they were picked.

    The model spells words letter by letter, where the tokenizer has a token for the whole word:
    text that is encoded again is not the sequence that the model wrote.
    """
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, "the one"))
    generate.simple_generate(model, tokenizer, PROMPT, max_tokens=len(model.script))
    check(
        len(model.calls) >= len(model.script),
        f"The model is called {len(model.calls)} times for {len(model.script)} tokens.",
    )
    for step, tokens in enumerate(model.calls[: len(model.script)]):
        assert_tokens_equal(
            tokens,
            model.prompt + model.script[:step],
            what=f"the tokens that the model gets in order to predict new token {step}",
        )


def test_task_1_adds_no_special_tokens() -> None:
    """A prompt that has its special tokens gets no second `<|start|>` from the tokenizer."""
    tokenizer = byte_tokenizer(adds_start=True)
    prompt = START + PROMPT
    model = model_saying(tokenizer, "there", prompt)
    generate.simple_generate(model, tokenizer, prompt, max_tokens=1)
    assert_tokens_equal(
        model.calls[0],
        model.prompt,
        what="the tokens of a prompt that begins with a special token",
    )


def test_task_1_characters_of_several_tokens() -> None:
    """Where a character is several tokens, they become text together."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "a 🦊 in 日本")
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=len(model.script)),
        "a 🦊 in 日本",
        what="simple_generate(...) of characters that are several tokens",
    )


def test_task_1_text_that_is_held_back_is_not_lost() -> None:
    """The detokenizer holds back a space until it sees the next token; at the end there is none."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, "one: "))
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=len(model.script)),
        "one: ",
        what="simple_generate(...) of text that ends with a space",
    )


def test_task_1_each_call_starts_afresh() -> None:
    """A second call knows nothing of the first."""
    tokenizer = byte_tokenizer()
    for script in ("first", "second"):
        model = model_saying(tokenizer, script)
        assert_text_equal(
            generate.simple_generate(model, tokenizer, PROMPT, max_tokens=len(model.script)),
            script,
            what=f"the {script} call of simple_generate(...)",
        )


def test_task_1_the_sampler_gets_log_probabilities() -> None:
    """The sampler is called with the log-probabilities at the last position, `1 x vocab_size`."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there")
    given: list[mx.array] = []

    def sampler(logprobs: mx.array) -> mx.array:
        given.append(mx.array(logprobs))
        return mx.argmax(logprobs, axis=-1)

    generate.simple_generate(model, tokenizer, PROMPT, sampler, max_tokens=len(model.script))
    check(given, "The sampler is never called.")
    for step, logprobs in enumerate(given[: len(model.script)]):
        logits = float64(model.logits(model.prompt + model.script[:step]))
        expected = logits - np.log(np.sum(np.exp(logits)))
        assert_close(
            logprobs,
            expected[None],
            what=f"what the sampler gets for new token {step} (log-probabilities)",
            reduction=len(expected),
            magnitude=np.abs(logits).max(),
            axes="B vocab",
        )


def test_task_1_the_sampler_decides() -> None:
    """The token that the sampler returns is the next token, for the text and for the model."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there")
    chosen = ids_of(tokenizer, "quite so")
    assert_text_equal(
        generate.simple_generate(
            model, tokenizer, PROMPT, sampler_choosing(chosen), max_tokens=len(chosen)
        ),
        "quite so",
        what="simple_generate(...) with a sampler of its own mind",
    )
    assert_tokens_equal(
        model.calls[len(chosen) - 1],
        model.prompt + chosen[:-1],
        what="the tokens that the model gets last, with a sampler of its own mind",
    )


@cases("prompt", "\n", " ", "  the\n\n")
def test_task_1_spaces_of_the_prompt_count(prompt: str) -> None:
    """Only a prompt without any token is empty; nothing is stripped."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "one", prompt)
    generate.simple_generate(model, tokenizer, prompt, max_tokens=1)
    assert_tokens_equal(model.calls[0], model.prompt, what=f"the tokens of the prompt {prompt!r}")


def test_task_1_an_empty_prompt_is_an_error() -> None:
    """There is nothing to continue: an error, and the model is not called."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there")
    assert_raises_clearly(
        ValueError,
        lambda: generate.simple_generate(model, tokenizer, "", max_tokens=3),
        what='simple_generate(model, tokenizer, "")',
    )


# --- Task 2: knowing when to stop ------------------------------------------------------------


@cases("end", END_OF_TEXT, END_OF_TURN, END_OF_CALL)
def test_task_2_stops_at_any_end_of_sequence_id(end: str) -> None:
    """Each of the tokenizer's end-of-sequence ids ends the text, and is not part of it."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, f"there was one{end}more")
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=40),
        "there was one",
        what=f"simple_generate(...) of a text that ends with {end}",
    )


def test_task_2_the_end_may_come_at_once() -> None:
    """A model that has nothing to say gives the empty text."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, END_OF_TURN + "more")
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=5),
        "",
        what="simple_generate(...) where the first token ends the sequence",
    )


def test_task_2_an_end_inside_the_prompt_is_not_the_end() -> None:
    """A chat prompt is full of ends of turns; only a generated one counts."""
    tokenizer = byte_tokenizer()
    prompt = f"Hello{END_OF_TURN}\n{PROMPT}{END_OF_TURN}"
    model = model_saying(tokenizer, "there was one" + END_OF_TURN, prompt)
    assert_text_equal(
        generate.simple_generate(model, tokenizer, prompt, max_tokens=40),
        "there was one",
        what=f"simple_generate(...) after a prompt with {END_OF_TURN} in it",
    )


def test_task_2_the_sampler_may_end_it() -> None:
    """What counts is the token that was picked, not the one the model likes best."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there was one")
    chosen = ids_of(tokenizer, "so" + END_OF_TURN)
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, sampler_choosing(chosen), max_tokens=40),
        "so",
        what="simple_generate(...) with a sampler that picks an end-of-sequence id",
    )


@cases("max_tokens", 1, 2, 5)
def test_task_2_stops_after_max_tokens(max_tokens: int) -> None:
    """Not one token more and not one less."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, "abcdefgh"))
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=max_tokens),
        "abcdefgh"[:max_tokens],
        what=f"simple_generate(..., max_tokens={max_tokens})",
    )


def test_task_2_the_end_may_be_the_last_token_allowed() -> None:
    """An end-of-sequence id at the limit is still no text."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, "abc") + ids_of(tokenizer, END_OF_TURN))
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=4),
        "abc",
        what="simple_generate(..., max_tokens=4) where the fourth token ends the sequence",
    )


@cases("text", "one\n\n\ntwo", "a" * 20)
def test_task_2_nothing_else_ends_it(text: str) -> None:
    """Neither blank lines nor repetition end the text."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, one_by_one(tokenizer, text) + ids_of(tokenizer, END_OF_TURN))
    assert_text_equal(
        generate.simple_generate(model, tokenizer, PROMPT, max_tokens=40),
        text,
        what=f"simple_generate(...) of {text!r}",
    )


@cases("max_tokens", 0, -1)
def test_task_2_max_tokens_below_1_is_an_error(max_tokens: int) -> None:
    """A limit that allows nothing is a mistake of the caller."""
    tokenizer = byte_tokenizer()
    model = model_saying(tokenizer, "there")
    assert_raises_clearly(
        ValueError,
        lambda: generate.simple_generate(model, tokenizer, PROMPT, max_tokens=max_tokens),
        what=f"simple_generate(..., max_tokens={max_tokens})",
    )


def test_task_2_the_embedded_model_answers_as_with_mlx_lm() -> None:
    """The whole engine of week 1 on a trained model, against mlx-lm with its KV cache."""
    model, tokenizer = tiny()
    student = qwen3.Qwen3Model(model)
    limit = 10
    compared = 0
    for message in ("Count from 3 to 9.", *(ledger_question(lines) for lines in (2, 4, 9))):
        prompt = chat(tokenizer, message)
        tokens, leads = continue_greedily(model, ids_of(tokenizer, prompt), limit)
        ends = [i for i, token in enumerate(tokens) if token in tokenizer.eos_token_ids]
        end = ends[0] if ends else limit
        if min(leads[: end + 1]) < 0.01:
            continue  # two tokens are as good as equal, and either text is right
        compared += 1
        assert_text_equal(
            generate.simple_generate(student, tokenizer, prompt, max_tokens=limit),
            tokenizer.decode(tokens[:end]),
            what=f"the embedded model's answer to {message[:30]!r}",
        )
    assert compared >= 2, "the prompts are a bad choice: the model hardly prefers any token"


# --- Task 3: streaming -----------------------------------------------------------------------

DETOKENIZERS = [BPEStreamingDetokenizer, NaiveStreamingDetokenizer]
STORY = "there was one 🦊,\nin 日本: "


class Listener:
    """Notes the pieces of text, and how much there was at each call of the model."""

    def __init__(self, model: ScriptedModel) -> None:
        self.model = model
        self.pieces: list[str] = []
        self.at_call: list[str] = []

    def on_text(self, piece: str) -> None:
        self.pieces.append(piece)

    def __call__(self, *inputs: Any, **options: Any) -> mx.array:
        self.at_call.append("".join(self.pieces))
        return self.model(*inputs, **options)


@pytest.mark.parametrize("detokenizer", DETOKENIZERS)
@pytest.mark.parametrize("end", ["", END_OF_TURN], ids=["at-max-tokens", "at-end-of-sequence"])
def test_task_3_the_pieces_add_up_to_the_result(
    detokenizer: type[StreamingDetokenizer], end: str
) -> None:
    """Every character is streamed once, the end-of-sequence token is not, nor is the prompt."""
    tokenizer = byte_tokenizer(detokenizer)
    story = one_by_one(tokenizer, STORY)
    listener = Listener(model_saying(tokenizer, story + ids_of(tokenizer, end)))
    result = generate.simple_generate(
        listener,
        tokenizer,
        PROMPT,
        max_tokens=100 if end else len(story),
        on_text=listener.on_text,
    )
    assert_text_equal(result, STORY, what="simple_generate(..., on_text=on_text)")
    assert_text_equal("".join(listener.pieces), STORY, what="the pieces that on_text gets")


@pytest.mark.parametrize("detokenizer", DETOKENIZERS)
def test_task_3_each_piece_comes_as_soon_as_it_can_be_read(
    detokenizer: type[StreamingDetokenizer],
) -> None:
    """Before the model computes the next token, on_text has what the last one made readable."""
    tokenizer = byte_tokenizer(detokenizer)
    script = one_by_one(tokenizer, STORY)
    listener = Listener(model_saying(tokenizer, script))
    generate.simple_generate(
        listener, tokenizer, PROMPT, max_tokens=len(script), on_text=listener.on_text
    )
    check(
        len(listener.at_call) >= len(script),
        f"The model is called {len(listener.at_call)} times for {len(script)} tokens.",
    )
    readable = tokenizer.detokenizer
    for step, token in enumerate(script[:-1], start=1):
        readable.add_token(token)
        heard = listener.at_call[step]
        check(
            # A space may come with the token itself or with the next one.
            heard.startswith(readable.text.rstrip(" ")) and STORY.startswith(heard),
            f"on_text is late, or gets other text than what was generated, at token {step}.\n"
            f"  expected   {readable.text!r} by then\n"
            f"  got        {heard!r}",
        )


@pytest.mark.parametrize("detokenizer", DETOKENIZERS)
def test_task_3_no_piece_holds_part_of_a_character(
    detokenizer: type[StreamingDetokenizer],
) -> None:
    """A character that is several tokens waits for the last of them."""
    tokenizer = byte_tokenizer(detokenizer)
    script = one_by_one(tokenizer, "日本 🦊🦊 ok")
    listener = Listener(model_saying(tokenizer, script))
    generate.simple_generate(
        listener, tokenizer, PROMPT, max_tokens=len(script), on_text=listener.on_text
    )
    broken = [piece for piece in listener.pieces if "\ufffd" in piece]
    check(
        not broken,
        "on_text gets a replacement character: a token that is only a part of a character.\n"
        f"  got        {broken[:1]!r}",
    )
    assert_text_equal("".join(listener.pieces), "日本 🦊🦊 ok", what="the pieces that on_text gets")


@cases("cut", 1, 2, 3)
def test_task_3_a_character_that_is_cut_off(cut: int) -> None:
    """If `max_tokens` cuts a character in two, the pieces still add up to the result."""
    tokenizer = byte_tokenizer()
    script = one_by_one(tokenizer, "a fox 🦊")
    listener = Listener(model_saying(tokenizer, script))
    result = generate.simple_generate(
        listener, tokenizer, PROMPT, max_tokens=len(script) - cut, on_text=listener.on_text
    )
    assert_text_equal(
        "".join(listener.pieces),
        result,
        what="the pieces that on_text gets, where the last character is cut off",
    )
    check(
        result.rstrip("\ufffd") == "a fox ",
        "The text before a character that is cut off is not what was generated.\n"
        "  expected   'a fox ', and perhaps a replacement character\n"
        f"  got        {result!r}",
    )


def test_task_3_with_a_sampler() -> None:
    """Streaming changes nothing about which token is picked."""
    tokenizer = byte_tokenizer()
    chosen = ids_of(tokenizer, "quite so")
    listener = Listener(model_saying(tokenizer, "there was one"))
    result = generate.simple_generate(
        listener,
        tokenizer,
        PROMPT,
        sampler_choosing(chosen),
        max_tokens=len(chosen),
        on_text=listener.on_text,
    )
    what = "simple_generate(...) with both a sampler and on_text"
    assert_text_equal(result, "quite so", what=what)
    assert_text_equal("".join(listener.pieces), "quite so", what=f"the pieces from {what}")
