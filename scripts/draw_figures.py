"""Draws the figures of the preface and of the chapters.

For authors. The SVG files in `book/src/figures` are committed; run this after changing it:
`python scripts/draw_figures.py`.
"""

import math
from collections.abc import Callable, Sequence

from tiny_llm_lab.book.drawing import (
    ACCENT,
    ACCENT_2,
    FIGURES,
    FILL,
    INK,
    MUTED,
    TIMES,
    Figure,
    Point,
)


def request_path() -> Figure:
    """Preface: from prompt to text."""
    figure = Figure(
        402,
        "A request's way through the engine",
        "The prompt goes through the tokenizer into a queue. Prefill runs the model on the prompt; "
        "the logits go to the sampler. Until the stop condition holds, each token goes through "
        "decode into the model again. Then the detokenizer's text is the answer.",
    )
    left, width, height = 44, 146, 32
    center, half = left + width / 2, 68

    def row(y: float, text: str, *notes: tuple[str, str]) -> None:
        if text:
            figure.box(left, y, width, height, text)
        for line, (note, color) in enumerate(notes):
            middle = y + height / 2 + 14 * (line - (len(notes) - 1) / 2)
            figure.text(left + width + 12, middle, note, size=11, anchor="start", color=color)

    figure.text(center, 10, "prompt")
    figure.arrow((center, 18), (center, 32))
    row(32, "tokenizer", ("given", MUTED))
    figure.arrow((center, 64), (center, 80))
    row(80, "queue", ("week 2: many requests", ACCENT_2))
    prefill, decode = left + width - half / 2, left + half / 2
    figure.arrow((prefill, 112), (prefill, 128))
    row(128, "", ("week 1: one request", ACCENT), ("week 2: chunks, batches", ACCENT_2))
    for x, name in ((decode, "decode"), (prefill, "prefill")):
        figure.box(x - half / 2, 128, half, height, name)
        figure.arrow((x, 160), (x, 182))
    row(182, "model", ("week 1: Qwen3", ACCENT), ("week 2: cache, kernels", ACCENT_2))
    figure.arrow((center, 214), (center, 230))
    row(230, "sampler", ("week 1", ACCENT))
    figure.arrow((center, 262), (center, 278))
    row(278, "stop?", ("week 1", ACCENT))
    figure.arrow((center, 310), (center, 334))
    figure.text(center + 8, 320, "yes", size=11, anchor="start")
    row(334, "detokenizer", ("given", MUTED))
    figure.arrow((center, 366), (center, 382))
    figure.text(center, 392, "text, streamed")
    # From "stop?" back to "decode".
    figure.arrow((left, 294), (22, 294), (22, 144), (left, 144))
    figure.text(16, 219, "no", size=11, anchor="end")
    return figure


def week_1_map() -> Figure:
    """Overview: the model, and which day writes what."""
    figure = Figure(
        566,
        "The Qwen3 model by days",
        "Text, tokenizer, token ids, embedding (day 5), a stack of layers, RMSNorm (day 4), output "
        "head (day 5), sampler (day 7), next token. A layer is RMSNorm (day 4), attention "
        "(days 1, 3 and 5) with RoPE (day 2), an addition, RMSNorm (day 4), MLP (day 4), an "
        "addition. The generation loop (day 6) appends the token and starts again.",
    )
    left, width = 70, 156
    center = left + width / 2
    badge = left + width + 12

    def part(y: float, text: str, days: str, height: float = 28) -> None:
        figure.box(left, y, width, height, text)
        if days:
            figure.text(badge, y + height / 2, days, size=12, anchor="start", color=ACCENT)

    def down(start: float, end: float) -> None:
        figure.arrow((center, start), (center, end))

    figure.text(center, 10, "text")
    down(17, 30)
    part(30, "tokenizer", "")
    figure.text(badge, 44, "given", size=12, anchor="start", color=MUTED)
    down(58, 72)
    figure.text(center, 80, "token ids")
    down(88, 102)
    part(102, "embedding", "Day 5")
    # The layer.
    figure.box(52, 142, 298, 272, stroke=MUTED, fill="none", radius=8)
    figure.text(342, 155, "layer, repeated", size=11, anchor="end", color=MUTED)
    figure.text(342, 402, "assembled on Day 5", size=11, anchor="end", color=ACCENT)
    down(130, 166)
    part(166, "RMSNorm", "Day 4")
    down(194, 206)
    figure.box(left, 206, width, 42)
    figure.text(center, 219, "attention")
    figure.text(center, 236, "with RoPE", size=12)
    figure.text(badge, 219, "Days 1, 3, 5", size=12, anchor="start", color=ACCENT)
    figure.text(badge, 236, "Day 2", size=12, anchor="start", color=ACCENT)
    down(248, 260)
    figure.operator(center, 271, "+")
    down(282, 306)
    part(306, "RMSNorm", "Day 4")
    down(334, 346)
    part(346, "MLP", "Day 4")
    down(374, 386)
    figure.operator(center, 397, "+")
    # What goes around attention and MLP and is added to their results.
    figure.arrow((center, 154), (60, 154), (60, 271), (center - 11, 271), color=ACCENT_2)
    figure.arrow((center, 290), (60, 290), (60, 397), (center - 11, 397), color=ACCENT_2)
    down(408, 428)
    part(428, "RMSNorm", "Day 4")
    down(456, 468)
    part(468, "output head", "Day 5")
    down(496, 514)
    part(514, "sampler", "Day 7")
    figure.text(center + 8, 504, "logits", size=11, anchor="start", color=MUTED)
    # The loop.
    figure.arrow((left, 528), (22, 528), (22, 80), (center - 34, 80), color=ACCENT)
    figure.text(left, 555, "the loop: append the next token", size=12, anchor="start")
    figure.text(badge + 52, 555, "Day 6", size=12, anchor="start", color=ACCENT)
    return figure


def attention() -> Figure:
    """Day 1: one query, three entries."""
    figure = Figure(
        248,
        "Attention as a soft lookup",
        "The query 2 0 2 0 is compared with three keys. oak: key 0 2 0 0, score 0, weight 0.042, "
        "value 220. fox: key 2 0 1 0, score 3, weight 0.844, value 17. elm: key 1 0 0 1, score 1, "
        "weight 0.114, value 40. The output is 28.2.",
    )
    query = [2, 0, 2, 0]
    entries = [("oak", [0, 2, 0, 0], 220), ("fox", [2, 0, 1, 0], 17), ("elm", [1, 0, 0, 1], 40)]
    scores = [sum(a * b for a, b in zip(query, key, strict=True)) / 2 for _, key, _ in entries]
    total = sum(math.exp(score) for score in scores)
    weights = [math.exp(score) / total for score in scores]

    def vector(x: float, y: float, numbers: Sequence[int], color: str) -> None:
        for index, number in enumerate(numbers):
            figure.box(x + 18 * index, y, 18, 22, str(number), size=12, stroke=color, radius=0)

    figure.text(66, 23, "query", anchor="end")
    vector(74, 12, query, ACCENT)
    figure.arrow((110, 36), (110, 62), color=ACCENT)
    columns = [(110, "key"), (184, "score"), (254, "weight"), (328, "value")]
    for x, name in columns:
        figure.text(x, 74, name, size=12, color=MUTED)
    for index, ((name, key, value), score, weight) in enumerate(
        zip(entries, scores, weights, strict=True)
    ):
        y = 86 + 34 * index
        figure.text(66, y + 11, name, anchor="end")
        vector(74, y, key, INK)
        figure.text(184, y + 11, f"{score:g}")
        figure.box(222, y + 3, 64, 16, fill="none", stroke=MUTED, radius=0)
        bar = 64 * weight
        figure.box(222, y + 3, bar, 16, fill=ACCENT, opacity=0.45, stroke=ACCENT, radius=0)
        figure.text(254, y + 11, f"{weight:.3f}", size=12)
        figure.text(328, y + 11, str(value))
    figure.text(184, 192, "q · k / √D", size=11, color=MUTED)
    figure.text(254, 192, "softmax", size=11, color=MUTED)
    output = sum(weight * value for weight, (*_, value) in zip(weights, entries, strict=True))
    terms = " + ".join(
        f"{weight:.3f} · {value}" for weight, (*_, value) in zip(weights, entries, strict=True)
    )
    figure.line((10, 210), (350, 210), color=MUTED, width=1)
    figure.text(180, 230, f"output = {terms} = {output:.1f}", size=12)
    return figure


HEADS = [(ACCENT, 0.4), (ACCENT_2, 0.4), (MUTED, 0.35)]


def multi_head() -> Figure:
    """Day 1: splitting and joining heads."""
    figure = Figure(
        430,
        "Splitting and joining heads",
        "A matrix of L positions by H times D features is cut by columns into H matrices of L by "
        "D, attention runs in each, and the results are put side by side again before the output "
        "projection.",
    )
    positions, head_dim, cell = 4, 2, 17.0

    def matrix(x: float, y: float, heads: Sequence[int]) -> None:
        for row in range(positions):
            for column in range(head_dim * len(heads)):
                fill, opacity = HEADS[heads[column // head_dim]]
                figure.box(
                    x + cell * column,
                    y + cell * row,
                    cell,
                    cell,
                    fill=fill,
                    opacity=opacity,
                    radius=0,
                )

    def step(y: float, text: str, x: float = 127) -> None:
        figure.arrow((x, y), (x, y + 26))
        figure.text(x + 10, y + 12, text, size=12, anchor="start")

    figure.text(127, 10, "query")
    figure.shape(10, "B x L x E")
    step(18, "linear with wq")
    matrix(76, 48, [0, 1, 2])
    figure.shape(82, "B x L x H·D")
    figure.text(66, 82, "L", size=12, anchor="end", color=MUTED)
    step(120, "reshape, swap axes")
    for head in range(3):
        x = 40 + 70 * head
        matrix(x, 164, [head])
        figure.text(x + cell, 156, f"head {head}", size=11)
        figure.arrow((x + cell, 236), (x + cell, 260))
    figure.shape(198, "B x H x L x D")
    figure.box(30, 260, 194, 26, "attention in every head", size=12)
    figure.shape(273, "B x H x L x D")
    step(290, "swap axes, reshape")
    matrix(76, 320, [0, 1, 2])
    figure.shape(354, "B x L x H·D")
    figure.arrow((127, 392), (127, 412))
    figure.text(137, 400, "linear with wo", size=12, anchor="start")
    figure.text(127, 422, "result", size=13)
    figure.shape(422, "B x L x E")
    return figure


def rope_rotation() -> Figure:
    """Day 2: four pairs at six positions."""
    figure = Figure(
        330,
        "Pairs of features turn at different speeds",
        "Four circles. Pair 0 turns by 1 radian per position and is spread around the circle at "
        "positions 0 to 5. Pair 1 turns by 0.1, pair 2 by 0.01, pair 3 by 0.001 radians per "
        "position: these arrows stay close together.",
    )
    radius = 52
    for pair in range(4):
        speed = 10000 ** (-2 * pair / 8)
        x, y = 80 + 176 * (pair % 2), 74 + 164 * (pair // 2)
        figure.circle(x, y, radius)
        for position in range(6):
            angle = speed * position
            tip = (x + radius * math.cos(angle), y - radius * math.sin(angle))
            color = ACCENT if position == 0 else INK
            figure.arrow((x, y), tip, color=color, width=1.6 if position == 0 else 1)
        labels = range(6) if pair == 0 else (0, 5) if pair == 1 else ()
        for position in labels:
            # Positions 0 and 5 of pair 1 are close: spread their labels a little.
            nudge = {0: -0.08, 5: 0.08}[position] if pair == 1 else 0.0
            angle = speed * position + nudge
            spot = (x + (radius + 11) * math.cos(angle), y - (radius + 11) * math.sin(angle))
            figure.text(*spot, str(position), size=12, color=ACCENT if position == 0 else INK)
        if pair > 1:
            figure.text(x + radius + 6, y, "0 to 5", size=12, anchor="start")
        figure.text(x, y + 74, f"pair {pair}: θ = {speed:g}", size=12)
    return figure


def rope_pairings() -> Figure:
    """Day 2: which features form a pair."""
    figure = Figure(
        220,
        "Two ways to pair features",
        "Traditional: features 0 and 1 are pair 0, 2 and 3 pair 1, 4 and 5 pair 2, 6 and 7 pair "
        "3. Otherwise, as in Qwen3: features 0 and 4 are pair 0, 1 and 5 pair 1, 2 and 6 pair 2, "
        "3 and 7 pair 3.",
    )
    dims, cell, left = 8, 38.0, 28.0

    def row(y: float, rise: float, title: str, pairs: Sequence[tuple[int, int]]) -> None:
        figure.text(left, y - rise - 12, title, size=12, anchor="start")
        for pair, (first, second) in enumerate(pairs):
            color = ACCENT if pair % 2 == 0 else ACCENT_2
            for feature in (first, second):
                figure.box(left + cell * feature, y, cell, 26, str(pair), stroke=INK, radius=0)
            a, b = (left + cell * (feature + 0.5) for feature in (first, second))
            top = y - 12 - (6 * pair if second - first > 1 else 0)
            figure.line((a, y), (a, top), (b, top), (b, y), color=color, width=1.8)
        for feature in range(dims):
            x = left + cell * (feature + 0.5)
            figure.text(x, y + 38, str(feature), size=11, color=MUTED)

    row(44, 14, "traditional=True", [(2 * j, 2 * j + 1) for j in range(4)])
    row(158, 32, "traditional=False (Qwen3)", [(j, j + 4) for j in range(4)])
    figure.text(180, 212, "feature", size=11, color=MUTED)
    return figure


def causal_mask() -> Figure:
    """Day 3: fewer queries than keys."""
    figure = Figure(
        190,
        "The causal mask with fewer queries than keys",
        "Three rows for queries at positions 2, 3 and 4, five columns for keys 0 to 4. Row 0 is "
        "open for keys 0 to 2, row 1 for keys 0 to 3, row 2 for all. The other entries are minus "
        "infinity.",
    )
    queries, keys, cell, left, top = 3, 5, 40.0, 146.0, 50.0
    figure.text(left + cell * keys / 2, 12, "key", size=12, color=MUTED)
    for key in range(keys):
        figure.text(left + cell * (key + 0.5), 34, str(key))
    for query in range(queries):
        y = top + cell * query
        position = keys - queries + query
        figure.text(left - 10, y + cell / 2, f"query {query}, position {position}", anchor="end")
        for key in range(keys):
            allowed = key <= position
            figure.box(
                left + cell * key,
                y,
                cell,
                cell,
                "0" if allowed else "\N{MINUS SIGN}\N{INFINITY}",
                fill=ACCENT if allowed else FILL,
                opacity=0.3 if allowed else 1,
                radius=0,
            )
    edge = left + cell * (keys - queries)
    figure.line((edge, top + cell * queries + 4), (edge, top + cell * queries + 14), color=MUTED)
    figure.text(edge - 6, 182, "read before", size=11, anchor="end", color=MUTED)
    figure.text(edge + 6, 182, "these queries", size=11, anchor="start", color=MUTED)
    return figure


def grouped_heads() -> Figure:
    """Day 3: query heads share key/value heads."""
    figure = Figure(
        190,
        "Query heads share key/value heads",
        "Query heads 0, 1 and 2 are connected to key/value head 0; query heads 3, 4 and 5 to "
        "key/value head 1.",
    )
    figure.text(180, 12, "query heads, H_q = 6", size=12, color=MUTED)
    for kv_head in range(2):
        fill, opacity = HEADS[kv_head]
        x = 97 + 166 * kv_head
        for member in range(3):
            head = 3 * kv_head + member
            center = x + 54 * (member - 1)
            figure.line((center, 60), (x, 120), color=fill, width=1.8)
            figure.box(center - 22, 26, 44, 34, str(head), fill=fill, opacity=opacity)
        figure.box(x - 50, 120, 100, 40, f"k, v  {kv_head}", fill=fill, opacity=opacity)
    figure.text(180, 178, "key/value heads, H_kv = 2", size=12, color=MUTED)
    return figure


def mlp() -> Figure:
    """Day 4: norm and SwiGLU."""
    figure = Figure(
        380,
        "RMSNorm and the SwiGLU MLP",
        "x is normalized. The result goes through the gate projection and SiLU on one side, and "
        "through the up projection on the other. Both are multiplied and go through the down "
        "projection.",
    )
    left, right, center = 82, 222, 152

    figure.text(center, 10, "x")
    figure.shape(10, "... x E")
    figure.arrow((center, 18), (center, 34))
    figure.box(center - 60, 34, 120, 30, "RMSNorm")
    figure.shape(49, "... x E")
    figure.arrow((center, 64), (center, 84), (left, 84), (left, 104))
    figure.arrow((center, 64), (center, 84), (right, 84), (right, 104))
    figure.box(left - 55, 104, 110, 30, "linear, w_gate", size=12)
    figure.box(right - 55, 104, 110, 30, "linear, w_up", size=12)
    figure.shape(148, "... x F")
    figure.arrow((left, 134), (left, 160))
    figure.box(left - 55, 160, 110, 30, "SiLU", size=13)
    figure.line((right, 134), (right, 226))
    figure.arrow((right, 225.4), (right, 226), (center + 11, 226))
    figure.arrow((left, 190), (left, 226), (center - 11, 226))
    figure.operator(center, 226, TIMES)
    figure.shape(226, "... x F")
    figure.text(left + 8, 146, "gate", size=11, anchor="start", color=MUTED)
    figure.text(right + 8, 146, "up", size=11, anchor="start", color=MUTED)
    figure.arrow((center, 237), (center, 268))
    figure.text(center + 8, 252, "hidden", size=11, anchor="start", color=MUTED)
    figure.box(center - 60, 268, 120, 30, "linear, w_down", size=12)
    figure.arrow((center, 298), (center, 324))
    figure.text(center, 334, "result")
    figure.shape(334, "... x E")
    figure.text(
        center, 362, "The layer adds the result to its input (Day 5).", size=11, color=MUTED
    )
    return figure


def silu() -> Figure:
    """Day 4: the activation."""
    figure = Figure(
        216,
        "SiLU and ReLU",
        "For x from -6 to 4. ReLU is 0 on the left and x on the right. SiLU follows it, a little "
        "below: it goes down to -0.278 at x = -1.278 and comes back to 0 further left.",
    )

    def spot(x: float, y: float) -> Point:
        return 30 + 31 * (x + 6), 168 - 36 * y

    figure.line(spot(-6, 0), spot(4.2, 0), color=MUTED, width=1)
    figure.line(spot(0, -0.6), spot(0, 4.2), color=MUTED, width=1)
    for x in range(-6, 5, 2):
        figure.line(spot(x, 0), (spot(x, 0)[0], spot(x, 0)[1] + 4), color=MUTED, width=1)
        if x:
            figure.text(spot(x, 0)[0], 192, str(x), size=11, color=MUTED)
    for y in (2, 4):
        figure.text(spot(0, y)[0] - 8, spot(0, y)[1], str(y), size=11, anchor="end", color=MUTED)
    figure.line(spot(-6, 0), spot(0, 0), spot(4, 4), color=ACCENT_2, width=1.6, dashed=True)
    xs = [-6 + 0.1 * step for step in range(101)]
    figure.line(*(spot(x, x / (1 + math.exp(-x))) for x in xs), color=ACCENT, width=2)
    figure.text(*spot(2.1, 3.1), "ReLU", size=12, color=ACCENT_2)
    figure.text(*spot(3.6, 2.5), "SiLU", size=12, color=ACCENT)
    return figure


def qwen3_model() -> Figure:
    """Day 5: embedding, blocks, norm, head."""
    figure = Figure(
        414,
        "The whole model",
        "Token ids are looked up in the embedding table, pass all transformer blocks and a final "
        "RMSNorm, and are scored against the rows of a table: the embedding table again if the "
        "head is tied, a table of its own otherwise.",
    )
    left, width, center = 14, 180, 104
    figure.text(center, 10, f"token ids: B {TIMES} L")
    figure.arrow((center, 18), (center, 40))
    boxes = (
        (40, "embedding lookup", ACCENT),
        (98, "block 0", INK),
        (146, "block 1", INK),
        (210, "last block", INK),
        (260, "final RMSNorm", INK),
        (318, "output head: x @ table.T", ACCENT),
    )
    for y, name, stroke in boxes:
        figure.box(left, y, width, 32, name, stroke=stroke)
    for start, end in ((72, 98), (130, 146), (194, 210), (242, 260), (292, 318), (350, 384)):
        figure.arrow((center, start), (center, end))
    figure.line((center, 178), (center, 194), dashed=True)
    for y in (84, 304):
        figure.text(center + 8, y, f"B {TIMES} L {TIMES} E", size=12, anchor="start")
    figure.text(center, 398, f"logits: B {TIMES} L {TIMES} vocab_size")
    figure.text(204, 116, "causal mask,", size=12, anchor="start")
    figure.text(204, 132, "offset for all", size=12, anchor="start")
    figure.box(248, 158, 106, 70, stroke=ACCENT)
    for y, text in ((176, "one table"), (194, f"vocab_size {TIMES} E"), (211, "(tied)")):
        figure.text(301, y, text, size=12)
    figure.arrow((301, 158), (301, 56), (left + width, 56), color=ACCENT)
    figure.arrow((301, 228), (301, 334), (left + width, 334), color=ACCENT)
    return figure


def transformer_block() -> Figure:
    """Day 5: the residual stream through one block."""
    figure = Figure(
        396,
        "A pre-norm transformer block",
        "The input is normalized, goes through attention, and is added to the unchanged input. "
        "The sum is normalized, goes through the MLP, and is added to the unchanged sum.",
    )
    center, stream = 150, 282
    figure.text(center, 10, f"x: B {TIMES} L {TIMES} E")
    halves = (
        (20, "input_layernorm", "attention", "x"),
        (196, "post_attention_layernorm", "MLP", "x + a"),
    )
    for y, norm, part, name in halves:
        figure.arrow((center, y), (center, y + 30))
        figure.box(60, y + 30, 180, 32, norm)
        figure.arrow((center, y + 62), (center, y + 82))
        figure.box(60, y + 82, 180, 32, part, stroke=ACCENT)
        figure.arrow((center, y + 114), (center, y + 136))
        figure.operator(center, y + 147, "+")
        corners = ((center, y + 14), (stream, y + 14), (stream, y + 147), (center + 11, y + 147))
        figure.arrow(*corners, color=ACCENT_2, width=1.8)
        figure.text(stream + 8, y + 80, name, anchor="start", color=ACCENT_2)
    figure.line((center, 178), (center, 196))
    figure.text(center + 8, 150, "a", size=12, anchor="start")
    figure.text(center + 8, 326, "m", size=12, anchor="start")
    figure.arrow((center, 354), (center, 376))
    figure.text(center, 387, f"x + a + m: B {TIMES} L {TIMES} E")
    return figure


def qwen3_attention() -> Figure:
    """Day 5: grouped attention with QK-norm and RoPE."""
    figure = Figure(
        428,
        "Attention with QK-norm and RoPE",
        "The input goes through three linear layers into query, key and value heads. Query and "
        "key heads pass an RMSNorm and then RoPE; value heads pass neither. Grouped attention "
        "joins the three, and the output projection leads back to the hidden size.",
    )

    def two_lines(x: float, y: float, width: float, first: str, second: str, stroke: str) -> None:
        figure.box(x, y, width, 40, stroke=stroke)
        figure.text(x + width / 2, y + 12, first)
        figure.text(x + width / 2, y + 29, second, size=12)

    figure.text(180, 10, f"x: B {TIMES} L {TIMES} E")
    figure.line((180, 18), (180, 30))
    columns = ((60, "q", "H_q"), (180, "k", "H_kv"), (300, "v", "H_kv"))
    for center, name, heads in columns:
        left = center - 50
        figure.arrow((180, 30), (center, 30), (center, 48))
        figure.box(left, 48, 100, 30, f"linear w{name}")
        figure.arrow((center, 78), (center, 96))
        two_lines(left, 96, 100, "split heads", f"{heads} {TIMES} D", INK)
        if name == "v":
            figure.arrow((center, 136), (center, 284))
            figure.text(center + 8, 196, "neither", size=12, anchor="start", color=MUTED)
        else:
            figure.arrow((center, 136), (center, 156))
            two_lines(left, 156, 100, "RMSNorm", f"{name}_norm", ACCENT)
            figure.arrow((center, 196), (center, 216))
            two_lines(left, 216, 100, "RoPE", "from offset", ACCENT_2)
            figure.arrow((center, 256), (center, 284))
        figure.text(center + 8, 270, name.upper(), anchor="start")
    two_lines(10, 284, 340, "grouped attention", "mask, scale 1/\u221aD", INK)
    figure.arrow((180, 324), (180, 344))
    two_lines(
        70, 344, 220, "join heads, linear wo", f"L {TIMES} (H_q \u00b7 D) to L {TIMES} E", INK
    )
    figure.arrow((180, 384), (180, 406))
    figure.text(180, 418, f"B {TIMES} L {TIMES} E")
    return figure


def generation_loop() -> Figure:
    """Day 6: from prompt to text, token by token."""
    figure = Figure(
        452,
        "The generation loop",
        "The prompt is encoded into tokens. The model reads all tokens; the last position's "
        "logits become log-probabilities; the sampler picks one token. At an end-of-sequence id "
        "the loop ends; otherwise the token is appended to the tokens and handed to the "
        "detokenizer, which releases text, and the loop starts again until max_tokens.",
    )
    center = 140
    figure.text(center, 10, "prompt text")
    rows = (
        (34, "tokenizer.encode", INK),
        (84, "tokens: prompt and choices", ACCENT_2),
        (134, "model", INK),
        (192, "last position, logprobs", ACCENT),
        (250, "sampler", INK),
        (308, "one of eos_token_ids?", INK),
        (362, "detokenizer.add_token", INK),
        (418, "finalize, return text", INK),
    )
    for y, text, stroke in rows:
        figure.box(40, y, 200, 32, text, stroke=stroke)
    for start, end in ((18, 34), (66, 84), (116, 134), (166, 192), (224, 250), (282, 308)):
        figure.arrow((center, start), (center, end))
    figure.arrow((center, 340), (center, 362))
    figure.arrow((center, 394), (center, 418))
    notes = (
        (179, f"1 {TIMES} L {TIMES} vocab_size"),
        (237, f"1 {TIMES} vocab_size"),
        (295, "token"),
        (351, "no"),
        (406, "max_tokens reached"),
    )
    for y, text in notes:
        figure.text(center + 8, y, text, size=12, anchor="start")
    figure.arrow((40, 324), (18, 324), (18, 434), (40, 434))
    figure.text(20, 313, "yes", size=12)
    figure.arrow((240, 324), (318, 324), (318, 100), (240, 100), color=ACCENT_2, width=1.8)
    figure.text(310, 216, "append", size=12, anchor="end", color=ACCENT_2)
    figure.arrow((240, 378), (280, 378))
    figure.text(284, 378, "on_text", anchor="start")
    return figure


def sampling_filters() -> Figure:
    """Day 7: one distribution under temperature, top-k and top-p."""
    tokens = {"mat": 0.40, "rug": 0.25, "bed": 0.15, "car": 0.10, "sun": 0.06, "law": 0.04}
    panels = (
        ("temp 1: the model's own", 1.0, 6),
        ("temp 0.5: sharper", 0.5, 6),
        ("temp 2: flatter", 2.0, 6),
        ("top-k 2: the two largest", 1.0, 2),
        ("top-p 0.85: at least 0.85", 1.0, 4),
        ("temp 2 and top-p 0.85", 2.0, 4),
    )
    scale, bar, step = 130, 24, 28

    def drawn(temp: float, kept: int) -> list[float]:
        powers = [p ** (1 / temp) for p in list(tokens.values())[:kept]]
        return [power / sum(powers) for power in powers]

    figure = Figure(
        430,
        "Temperature, top-k and top-p on one distribution",
        "Probabilities of mat, rug, bed, car, sun, law. "
        + " ".join(
            f"{title.capitalize()}: {', '.join(f'{p:.2f}' for p in drawn(temp, kept))}."
            for title, temp, kept in panels
        ),
    )
    for index, (title, temp, kept) in enumerate(panels):
        left, base = 4 + 184 * (index % 2), 122 + 144 * (index // 2)
        figure.text(left, base - 110, title, anchor="start", color=ACCENT if index else INK)
        figure.line((left - 2, base), (left + 168, base), color=MUTED, width=1)
        shares = drawn(temp, kept)
        for place, (token, probability) in enumerate(tokens.items()):
            x = left + step * place
            if place < kept:
                height, label, color = scale * shares[place], f"{shares[place]:.2f}"[1:], INK
                figure.box(
                    x,
                    base - height,
                    bar,
                    height,
                    fill=ACCENT_2,
                    opacity=0.8,
                    stroke="none",
                    radius=0,
                )
            else:
                height, label, color = scale * probability, "0", MUTED
                top, right = base - height, x + bar
                figure.line(
                    (x, base), (x, top), (right, top), (right, base), color=MUTED, dashed=True
                )
            figure.text(x + bar / 2, base - height - 9, label, size=11, color=color)
            figure.text(x + bar / 2, base + 10, token, size=11)
    return figure


def week_2_engine() -> Figure:
    """Week 2 overview: a request's way through the finished engine, and which day writes what."""
    figure = Figure(
        540,
        "A request's way through the engine of week 2",
        "A prompt is tokenized and becomes a request with its own KV caches (day 1), which waits "
        "in a queue (day 6). Prefill gives the model one chunk after the other (day 7, chunk size "
        "day 8). After the last chunk the first token is sampled. A free slot takes over the "
        "caches (day 6). Decode gives the model one token for every slot in one forward pass "
        "(day 6). At a stop condition the text is complete and the caches are released. The model "
        "is week 1's, with quantized matrix products (days 2 and 3) and flash attention (days 4 "
        "and 5).",
    )
    left, width = 34, 168
    center, right = left + width / 2, left + width
    rows = (
        (32, "request: ids, offset 0", "its own caches: Day 1"),
        (94, "queue", "Day 6"),
        (156, "prefill: one chunk", "Day 7; its size: Day 8"),
        (242, "sampler: first token", "week 1"),
        (304, "free slot takes caches", "Day 6"),
        (366, "decode: a token per slot", "Day 6"),
        (452, "stop: release caches", "Day 1"),
    )
    figure.text(center, 10, "prompt")
    for y, text, days in rows:
        figure.box(left, y, width, 40)
        figure.text(center, y + 13, text)
        figure.text(center, y + 29, days, size=11, color=ACCENT)
    starts = (18, *(y + 40 for y, *_ in rows))
    ends = (*(y for y, *_ in rows), 514)
    for start, end in zip(starts, ends, strict=True):
        figure.arrow((center, start), (center, end))
    figure.text(center, 525, "text")
    for y, name in ((156, "last chunk"), (366, "end token or limit")):
        figure.text(center + 8, y + 62, name, size=11, anchor="start", color=MUTED)
    for y, name in ((156, "next chunk"), (366, "next token")):
        figure.arrow((center, y + 56), (14, y + 56), (14, y + 20), (left, y + 20), color=ACCENT_2)
        figure.text(16, y + 68, name, size=11, anchor="start", color=ACCENT_2)
    # The one model that both phases call.
    figure.box(238, 176, 116, 210, stroke=ACCENT_2)
    notes = (
        (196, "model", INK, 13),
        (214, "Qwen3, week 1", MUTED, 11),
        (242, "linear layers:", INK, 11),
        (257, "Days 2, 3", ACCENT, 11),
        (283, "attention:", INK, 11),
        (298, "Days 4, 5", ACCENT, 11),
        (324, "offset, KV cache:", INK, 11),
        (339, "Day 1", ACCENT, 11),
    )
    for y, text, color, size in notes:
        figure.text(296, y, text, size=size, color=color)
    for y in (183, 379):
        figure.arrow((right, y), (238, y), color=ACCENT_2)
    return figure


def kv_cache() -> Figure:
    """Week 2, day 1: what each call of the model computes, without and with a cache."""
    prompt, generated, cell, left = 4, 4, 27.0, 92.0
    calls = [prompt + step for step in range(generated)]
    figure = Figure(
        330,
        "What each call of the model computes",
        f"A prompt of {prompt} tokens and {generated} generated tokens. Without a cache the calls "
        f"compute {', '.join(map(str, calls))} positions, {sum(calls)} together. With a cache the "
        f"first computes {prompt} and each later one a single position, {calls[-1]} together: the "
        "keys and values of all earlier positions are kept.",
    )

    def block(top: float, title: str, cached: bool) -> None:
        figure.text(6, top, title, anchor="start", bold=True)
        figure.text(352, top, "computed", size=11, anchor="end", color=MUTED)
        total = 0
        for step, length in enumerate(calls):
            y = top + 12 + cell * step
            kept = length - 1 if cached and step else 0
            total += length - kept
            phase = "" if not cached else ", decode" if step else ", prefill"
            figure.text(left - 8, y + cell / 2, f"call {step}{phase}", size=11, anchor="end")
            for position in range(length):
                old = position < kept
                figure.box(
                    left + cell * position,
                    y + 2,
                    cell,
                    cell - 4,
                    fill=ACCENT_2 if old else ACCENT,
                    opacity=0.18 if old else 0.5,
                    stroke=ACCENT_2 if old else INK,
                    radius=0,
                )
            figure.text(352, y + cell / 2, str(length - kept), anchor="end")
        figure.text(352, top + 22 + cell * len(calls), f"{total} in all", anchor="end")

    block(12, "without a cache", False)
    block(164, "with a cache", True)
    for x, color, opacity, text in ((6, ACCENT, 0.5, "computed"), (96, ACCENT_2, 0.18, "kept")):
        figure.box(x, 306, 14, 14, fill=color, opacity=opacity, stroke=color, radius=0)
        figure.text(x + 20, 313, text, size=12, anchor="start")
    figure.text(352, 313, "positions, left to right", size=12, anchor="end", color=MUTED)
    return figure


def kv_cache_growth() -> Figure:
    """Week 2, day 1: a buffer that doubles when it is full."""
    figure = Figure(
        176,
        "A buffer that doubles",
        "Five tokens fill a buffer of 5. The sixth needs a new one of 10, into which 5 are "
        "copied. The eleventh needs one of 20, into which 10 are copied. Tokens in between are "
        "written into the free room and copy nothing.",
    )
    cell, left = 12.5, 6.0
    for row, (room, held) in enumerate(((5, 5), (10, 6), (10, 10), (20, 11))):
        y = 26 + 38 * row
        copied = held - 1 if room != held and row else 0
        for position in range(room):
            new, free = position == held - 1, position >= held
            figure.box(
                left + cell * position,
                y,
                cell,
                18,
                fill="none" if free else ACCENT if new else ACCENT_2,
                opacity=0.5 if new else 0.25,
                stroke=MUTED if free else INK,
                radius=0,
            )
        figure.text(352, y + 9, f"{copied} copied", anchor="end", size=12)
        figure.text(left, y - 9, f"{held} tokens, room for {room}", anchor="start", size=11)
    return figure


def schedule_simulator() -> Figure:
    """For readers without scripts: a long prompt joins two streams, whole and in chunks."""
    figure = Figure(
        276,
        "A long prompt joins two streams",
        "Two timelines of requests A and B, which decode, and C, whose long prompt arrives. Whole: "
        "C is prefilled at once, and A and B get no token meanwhile. In chunks: a decode step of A "
        "and B follows each of four chunks; the first token of C comes later.",
    )
    left, row = 30.0, 26.0

    def timeline(top: float, title: str, chunks: int, sides: int) -> None:
        """Eight units of prefill in so many chunks; a decode step is one unit, a pass costs one."""
        figure.text(6, top, title, anchor="start")
        unit, x = 10.5, left
        middles = [top + 24 + row * request for request in range(3)]

        def bar(request: int, width: float, height: float, color: str) -> None:
            y = middles[request] - height / 2
            figure.box(x, y, width, height, fill=color, stroke=color, opacity=0.45, radius=0)

        for request, middle in enumerate(middles):
            figure.text(left - 8, middle, "ABC"[request], anchor="end")
            figure.line((left, middle), (352, middle), color=MUTED, width=0.8)
        gap = x
        for step in range(sides + chunks + sides):
            if sides <= step < sides + chunks:
                width = unit * (1 + 8 / chunks)
                bar(2, width, 18, ACCENT)
                x += width
            if step == sides:
                gap = x - unit * (1 + 8 / chunks) - 2
            for request in range(3 if step >= sides + chunks - 1 else 2):
                bar(request, unit, 10, ACCENT_2)
            x += unit + 2
            if step == sides:
                end = x - 2
        y = top + 24 + 2.75 * row
        figure.line((gap, y - 4), (gap, y + 4))
        figure.line((end, y - 4), (end, y + 4))
        figure.line((gap, y), (end, y))
        figure.text(end + 6, y, "the worst decode gap", size=12, anchor="start")

    timeline(12, "the whole prompt at once", 1, 4)
    timeline(130, "in four chunks", 4, 4)
    for x, color, height, text in ((30, ACCENT, 18, "prefill"), (120, ACCENT_2, 10, "decode")):
        y = 258 - height / 2
        figure.box(x, y, 12, height, fill=color, stroke=color, opacity=0.45, radius=0)
        figure.text(x + 20, 258, text, size=12, anchor="start")
    figure.text(352, 258, "time, left to right", size=12, anchor="end", color=MUTED)
    return figure


def mask_explorer() -> Figure:
    """For readers without scripts: a chunk's mask, with one row picked out."""
    start, size, total = 5, 4, 12
    figure = Figure(
        214,
        "The mask of a chunk",
        "Four rows for a chunk that starts at position 5, twelve columns. Row 0 is open for keys 0 "
        "to 5, row 1 for keys 0 to 6, row 2 for keys 0 to 7, row 3 for keys 0 to 8. Columns 9 to "
        "11 are not filled yet and closed for all. Row 2 is picked out.",
    )
    cell, left, top = 24.0, 64.0, 46.0
    zones = [("cached", 0, start), ("chunk", start, start + size), ("not filled", 9, total)]
    for name, first, end in zones:
        figure.text(left + cell * (first + end) / 2, 12, name, size=12, color=MUTED)
        if first:
            x = left + cell * first
            figure.line((x, 6), (x, top + cell * size + 6), color=MUTED, width=2)
    for key in range(total):
        figure.text(left + cell * (key + 0.5), 34, str(key), size=12, color=MUTED)
    for query in range(size):
        y = top + cell * query
        figure.text(left - 8, y + cell / 2, f"row {query}", size=12, anchor="end")
        for key in range(total):
            allowed = key <= start + query
            figure.box(
                left + cell * key,
                y,
                cell,
                cell,
                "0" if allowed else "\N{MINUS SIGN}\N{INFINITY}",
                size=12,
                fill=ACCENT if allowed else FILL,
                opacity=0.3 if allowed else 1,
                stroke=MUTED,
                radius=0,
            )
    y = top + cell * 2
    figure.line(
        (left, y), (352, y), (352, y + cell), (left, y + cell), (left, y), color=INK, width=2.2
    )
    figure.text(6, 164, "Row 2 is the token at position 7: it sees keys 0 to 7.", anchor="start")
    figure.text(6, 184, "Column 8 is a later token of this chunk.", anchor="start")
    figure.text(6, 204, "Columns 9 to 11 are not filled yet.", anchor="start")
    return figure


def static_and_continuous() -> Figure:
    """Week 2, day 6: eight answers on three slots, in fixed batches and continuously."""
    answers = {"A": 3, "B": 8, "C": 2, "D": 4, "E": 2, "F": 6, "G": 3, "H": 2}
    slots, cell, left = 3, 20.0, 10.0
    names = list(answers)
    fixed: list[list[str]] = [[] for _ in range(slots)]  # per slot, who has it in each step
    for first in range(0, len(names), slots):
        batch = names[first : first + slots]
        steps = max(answers[name] for name in batch)
        for slot in range(slots):
            name = batch[slot] if slot < len(batch) else ""
            fixed[slot] += [name] * answers.get(name, 0)
            fixed[slot] += [""] * (steps - answers.get(name, 0))
    free: list[list[str]] = [[] for _ in range(slots)]
    for name in names:
        slot = min(range(slots), key=lambda slot: len(free[slot]))
        free[slot] += [name] * answers[name]
    longest = max(map(len, free))
    for row in free:
        row += [""] * (longest - len(row))

    figure = Figure(
        206,
        "Eight answers on three slots",
        f"Answers of {', '.join(f'{n} tokens ({name})' for name, n in answers.items())}. In fixed "
        f"batches of three they take {len(fixed[0])} steps, and slots stay empty until the longest "
        f"answer of their batch is complete. If a slot is taken again as soon as it is free, they "
        f"take {longest} steps, and slots are empty only at the end.",
    )

    def grid(top: float, title: str, rows: list[list[str]]) -> None:
        figure.text(left, top, title, anchor="start")
        figure.text(352, top, f"{len(rows[0])} steps", size=12, anchor="end", color=MUTED)
        for slot, row in enumerate(rows):
            for step, name in enumerate(row):
                figure.box(
                    left + cell * step,
                    top + 12 + cell * slot,
                    cell,
                    cell,
                    name,
                    size=12,
                    fill=(ACCENT if names.index(name) % 2 else ACCENT_2) if name else "none",
                    opacity=0.3,
                    stroke=INK if name else MUTED,
                    radius=0,
                )

    grid(12, "fixed batches", fixed)
    grid(110, "continuous batching", free)
    figure.text(left, 198, "a row per slot, a column per decode step", size=12, anchor="start")
    return figure


def batching_slots() -> Figure:
    """Week 2, day 6: what happens to the columns of the slots."""
    figure = Figure(
        428,
        "Requests of different lengths in one array",
        "Three slots. First: slot 0 holds a, b, c, slot 1 is empty, slot 2 holds e to i; both end "
        "at column 5. After a decode step both have one token more, d and j, in column 5. Then "
        "slot 2 is emptied, and nothing moves. Then a request of 7 tokens comes into slot 1, more "
        "than the 6 columns in front of the end: what is held moves one column to the right.",
    )
    cell, left, columns = 30.0, 48.0, 9

    def panel(top: float, title: str, rows: Sequence[str], end: int, new: str = "") -> None:
        figure.text(6, top, title, size=12, anchor="start")
        for slot, tokens in enumerate(rows):
            y = top + 14 + 21 * slot
            figure.text(left - 8, y + 10, f"slot {slot}", size=11, anchor="end")
            for column in range(columns):
                token = tokens.rjust(end)[column] if column < end else " "
                figure.box(
                    left + cell * column,
                    y,
                    cell,
                    21,
                    token.strip(),
                    size=12,
                    fill="none" if token == " " else ACCENT if token in new else ACCENT_2,
                    opacity=0.4 if token in new else 0.2,
                    stroke=MUTED,
                    radius=0,
                )
        x = left + cell * end
        figure.line((x, top + 9), (x, top + 82), width=2.4)
        figure.text(x + 5, top + 1, "end", size=11, anchor="start")

    panel(14, "requests of 3 and 5 tokens", ("abc", "", "efghi"), 5)
    panel(118, "a decode step writes one column", ("abcd", "", "efghij"), 6, "dj")
    panel(222, "slot 2 is emptied, nothing moves", ("abcd", "", ""), 6)
    panel(326, "7 tokens come: all move right", ("abcd", "klmnopq", ""), 7, "klmnopq")
    figure.text(left, 420, "column 0 on the left", size=11, anchor="start", color=MUTED)
    return figure


def chunk_bands() -> Figure:
    """Week 2, day 7: the rows of one causal mask, chunk by chunk."""
    tokens, chunk, cell, left, gap = 12, 4, 17.0, 70.0, 24.0
    figure = Figure(
        308,
        "One causal mask, cut into chunks",
        "A prompt of 12 tokens in three chunks of 4. Chunk 0 has offset 0 and looks at 4 keys, its "
        "own. Chunk 1 has offset 4 and looks at 8 keys: 4 from the cache and its own 4. Chunk 2 "
        "has offset 8 and looks at 12 keys: 8 from the cache and its own 4. Put together, the "
        "allowed entries are the lower triangle of 12 by 12, as without chunks.",
    )
    figure.text(left + cell * tokens / 2, 10, "key", size=12, color=MUTED)
    for index, start in enumerate(range(0, tokens, chunk)):
        top = 26 + (cell * chunk + gap) * index
        middle = top + cell * chunk / 2
        figure.text(left - 10, middle - 9, f"chunk {index}", anchor="end")
        figure.text(left - 10, middle + 9, f"offset {start}", size=11, anchor="end", color=MUTED)
        for row in range(chunk):
            for key in range(start + chunk):
                allowed, own = key <= start + row, key >= start
                figure.box(
                    left + cell * key,
                    top + cell * row,
                    cell,
                    cell,
                    fill=(ACCENT if own else ACCENT_2) if allowed else "none",
                    opacity=0.45 if own else 0.22,
                    stroke=INK if allowed else MUTED,
                    radius=0,
                )
        figure.text(
            left + cell * tokens + 8, middle, f"{chunk} {TIMES} {start + chunk}", anchor="start"
        )
    for x, color, opacity, text in (
        (6, ACCENT_2, 0.22, "cached"),
        (92, ACCENT, 0.45, "this chunk"),
        (198, "none", 1, "hidden by the mask"),
    ):
        stroke = MUTED if color == "none" else color
        figure.box(x, 290, 14, 14, fill=color, opacity=opacity, stroke=stroke, radius=0)
        figure.text(x + 20, 297, text, size=12, anchor="start")
    return figure


def lazy_chunks() -> Figure:
    """Week 2, day 7: when the work of four chunks is done."""
    figure = Figure(
        214,
        "When the work of four chunks is done",
        "Four steps, each with a chunk and a decode step. If the caches are materialized, each "
        "chunk is computed in its own step. If not, the first three chunks take no time and "
        "the last one computes all four: the decode step after it waits as long as without chunks.",
    )
    for top, title, sizes in (
        (12, "materialized after each chunk", (1, 1, 1, 1)),
        (104, "left alone", (0, 0, 0, 4)),
    ):
        figure.text(6, top, title, anchor="start", bold=True)
        y, x, unit = top + 22, 14.0, 60.0
        figure.line((6, y + 24), (352, y + 24), color=MUTED, width=0.8)
        for step, size in enumerate(sizes):
            if size:
                figure.box(
                    x,
                    y,
                    unit * size,
                    24,
                    f"chunk {step}" if size == 1 else "chunks 0, 1, 2 and 3",
                    size=11,
                    fill=ACCENT,
                    opacity=0.4,
                    stroke=ACCENT,
                    radius=0,
                )
            x += unit * size
            figure.box(x, y, 14, 24, fill=ACCENT_2, opacity=0.4, stroke=ACCENT_2, radius=0)
            x += 20
    for x, color, text in ((6, ACCENT, "prefill"), (84, ACCENT_2, "decode")):
        figure.box(x, 190, 12, 12, fill=color, opacity=0.4, stroke=color, radius=0)
        figure.text(x + 18, 196, text, size=12, anchor="start")
    figure.text(352, 196, "time, left to right", size=12, anchor="end", color=MUTED)
    return figure


def scheduler_step() -> Figure:
    """Week 2, day 7: one step of the scheduler."""
    figure = Figure(
        406,
        "One step of the scheduler",
        "1, handle_prefill_phase: unless a prefilled request is waiting, the request that "
        "next_to_prefill names runs one chunk. If chunks are left it stays in the queue. After its "
        "last chunk it becomes the prefilled request. 2, move_prefill_to_decode: it takes a free "
        "slot if there is one, else it waits. 3, handle_decode_phase: one token for every slot "
        "that is taken. 4, move_prefill_to_decode again: a slot that has just become free is "
        "taken. An end token, a limit, an error or an abort ends a request at any point and "
        "releases its caches.",
    )
    left, width, center = 20, 176, 108
    note = left + width + 16

    def part(y: float, text: str, detail: str, fill: str = FILL) -> None:
        figure.box(left, y, width, 40, fill=fill, opacity=0.2 if fill != FILL else 1)
        figure.text(center, y + 13, text)
        figure.text(center, y + 29, detail, size=11, color=MUTED)

    part(8, "queue", "next_to_prefill: who is next")
    figure.arrow((center, 48), (center, 72))
    part(72, "1  prefill phase", "one chunk of one request", ACCENT)
    figure.arrow((center, 112), (center, 148))
    figure.text(center + 8, 130, "last chunk: first token", size=11, anchor="start", color=MUTED)
    part(148, "prefilled", "at most one request")
    figure.arrow((center, 188), (center, 224))
    figure.text(center + 8, 206, "2, 4  if a slot is free", size=11, anchor="start", color=MUTED)
    part(224, "slots", "batch_size of them")
    figure.arrow((center, 264), (center, 288))
    part(288, "3  decode phase", "a token for every taken slot", ACCENT_2)
    figure.arrow((center, 328), (center, 364))
    figure.text(center + 8, 346, "end token, limit", size=11, anchor="start", color=MUTED)
    part(364, "ended", "result; caches released")
    # Loops.
    figure.arrow((left, 92), (8, 92), (8, 28), (left, 28), color=ACCENT)
    figure.arrow((left, 308), (8, 308), (8, 244), (left, 244), color=ACCENT_2)
    figure.text(note, 28, "chunks left: it stays", size=11, anchor="start", color=ACCENT)
    figure.text(note, 244, "goes on decoding", size=11, anchor="start", color=ACCENT_2)
    # Ways out that may be taken anywhere.
    for y in (92, 168):
        figure.line((left + width, y), (340, y), color=MUTED, dashed=True)
    figure.line((left + width, 308), (340, 308), color=MUTED, dashed=True)
    figure.line((340, 92), (340, 384), color=MUTED, dashed=True)
    figure.arrow((340, 384), (left + width, 384), color=MUTED)
    figure.text(note, 374, "error, abort", size=11, anchor="start", color=MUTED)
    return figure


def prefill_schedules() -> Figure:
    """Week 2, day 7: how four systems let a long prompt and two streams share time."""
    figure = Figure(
        344,
        "Four ways to share",
        "Timelines of forward passes. Day 7: a chunk, a decode step, in turns. Token budget, as in "
        "Sarathi-Serve and vLLM: every pass holds all decodes and, in what is left of the budget, "
        "a chunk. Alternation, as in mlx-lm: a decode step, then up to 2,048 tokens of up to 8 "
        "prompts in one pass. Separate machines, as in DistServe: one does nothing but prefill, "
        "the other nothing but decode, and the cache is sent over.",
    )
    height = 26

    def row(top: float, title: str, label: str) -> float:
        figure.text(6, top, title, anchor="start", bold=True)
        figure.text(352, top, label, size=11, anchor="end", color=MUTED)
        return top + 14

    def block(x: float, y: float, width: float, color: str, tall: float = height) -> float:
        figure.box(x, y, width, tall, fill=color, opacity=0.4, stroke=color, radius=0)
        return x + width

    y, x = row(12, "day 7", "two passes per step"), 8.0
    for _ in range(5):
        x = block(x, y, 40, ACCENT) + 3
        x = block(x, y, 16, ACCENT_2) + 8
    y, x = row(84, "one token budget", "one pass per step"), 8.0
    for _ in range(6):
        block(x, y, 42, ACCENT_2, 8)
        x = block(x, y + 8, 42, ACCENT, height - 8) + 8
    y, x = row(156, "alternation", "a decode step, then much prefill"), 8.0
    for width in (200, 0, 0, 0):
        x = block(x, y, 16, ACCENT_2) + 3
        if width:
            x = block(x, y, width, ACCENT) + 8
    y, x = row(228, "separate machines", "no pass is shared"), 92.0
    figure.text(8, y + 10, "prefill", size=12, anchor="start")
    block(x, y, 200, ACCENT, 20)
    y += 40
    figure.text(8, y + 10, "decode", size=12, anchor="start")
    for _ in range(12):
        x = block(x, y, 16, ACCENT_2, 20) + 4
    figure.arrow((292, y - 20), (304, y - 2))
    figure.text(310, y - 14, "KV cache", size=11, anchor="start")
    for x, color, text in ((6, ACCENT, "prefill"), (84, ACCENT_2, "decode")):
        figure.box(x, 322, 12, 12, fill=color, opacity=0.4, stroke=color, radius=0)
        figure.text(x + 18, 328, text, size=12, anchor="start")
    figure.text(352, 328, "time, left to right", size=12, anchor="end", color=MUTED)
    return figure


def deadline_chunks() -> Figure:
    """Week 2, day 8: the largest chunk within a gap, further and further into a prompt."""
    fixed, per_token, per_pair, per_cached, per_decode = 4.0, 0.09, 30e-6, 0.6e-3, 0.8
    gap, step = 50.0, fixed + per_cached * 2000 + per_decode * 4
    rows = []
    for offset in (0, 2000, 8000, 16000):
        room = gap - step - fixed - per_cached * offset
        slope = per_token + 2 * per_pair * offset
        size = int((math.sqrt(slope**2 + 4 * per_pair * room) - slope) / (2 * per_pair))
        pairs = per_pair * (2 * offset * size + size**2)
        rows.append((offset, size, (fixed + per_cached * offset, per_token * size, pairs)))
    sizes = ", ".join(f"{size} tokens behind {offset:,}" for offset, size, _ in rows)
    figure = Figure(
        226,
        "The largest chunk within a gap of 50 ms",
        f"Chunks that keep the gap below 50 ms: {sizes}. The part of attention grows, and the part "
        "of the linear layers shrinks.",
    )
    left, scale = 78.0, 5.0
    colors = (MUTED, ACCENT_2, ACCENT)
    for index, (offset, size, parts) in enumerate(rows):
        y = 26 + 38 * index
        figure.text(left - 8, y + 6, f"{offset:,} done", size=11, anchor="end")
        figure.text(left - 8, y + 20, f"chunk {size}", size=12, anchor="end", bold=True)
        x = left
        for part, color in zip(parts, colors, strict=True):
            figure.box(x, y, scale * part, 26, fill=color, opacity=0.45, radius=0)
            x += scale * part
        figure.box(x, y, scale * step, 26, fill="none", radius=0)
    end = left + scale * gap
    figure.line((end, 16), (end, 176), color=INK, dashed=True)
    figure.text(end, 8, "50 ms", size=11)
    names = ("pass, cache", "linear layers", "attention", "decode step")
    for index, (name, color) in enumerate(zip(names, (*colors, "none"), strict=True)):
        x, y = 20 + 170 * (index % 2), 188 + 20 * (index // 2)
        figure.box(x, y, 14, 12, fill=color, opacity=0.45, radius=0)
        figure.text(x + 20, y + 6, name, size=12, anchor="start")
    return figure


def prefill_states() -> Figure:
    """Week 2, day 8: what can happen to a request in the manager."""
    figure = Figure(
        206,
        "The states of a request",
        "A request is pending until its first chunk starts, then running, and done when its last "
        "chunk is completed. When a chunk fails it is failed, and pending again when it is "
        "resumed, at the same offset. From pending, running and failed it can be cancelled.",
    )
    width, height = 82, 30
    spots = {
        "pending": (8, 40),
        "running": (139, 40),
        "done": (270, 40),
        "failed": (139, 128),
        "cancelled": (270, 128),
    }
    for name, (x, y) in spots.items():
        ended = name in ("done", "cancelled")
        figure.box(x, y, width, height, name, fill=FILL if ended else ACCENT_2, opacity=0.3)
    figure.arrow((90, 55), (139, 55))
    figure.text(114, 44, "start", size=11)
    figure.arrow((221, 55), (270, 55))
    figure.text(245, 32, "complete", size=10)
    figure.text(245, 45, "the last", size=10)
    figure.arrow((162, 40), (162, 22), (198, 22), (198, 40))
    figure.text(180, 12, "complete: offset moves on", size=11)
    figure.arrow((180, 70), (180, 128))
    figure.text(186, 100, "fail", size=11, anchor="start")
    figure.arrow((139, 143), (49, 143), (49, 70))
    figure.text(94, 133, "resume:", size=11)
    figure.text(94, 154, "same offset", size=11)
    figure.arrow((221, 143), (270, 143))
    figure.text(245, 133, "cancel", size=10)
    figure.text(
        352, 184, "pending and running requests can be cancelled, too", size=11, anchor="end"
    )
    return figure


def overlapped_chunks() -> Figure:
    """Week 2, day 8: the next chunk is prepared while one is computed."""
    figure = Figure(
        196,
        "Chunks one after the other, and overlapped",
        "On two time lines, host and device. Above, the host prepares a chunk, the device computes "
        "it, and only then the host prepares the next. Below, the host prepares the next chunk "
        "while the device computes one, so that the device hardly waits.",
    )
    prepare, compute = 26.0, 66.0
    for row, (title, overlapped) in enumerate((("waiting", False), ("overlapped", True))):
        y = 22 + 88 * row
        figure.text(6, y - 10, title, size=12, anchor="start", bold=True)
        figure.text(48, y + 11, "host", size=11, anchor="end")
        figure.text(48, y + 37, "device", size=11, anchor="end")
        host = device = 56.0
        for chunk in range(3):
            figure.box(host, y, prepare, 22, str(chunk), size=11, fill=ACCENT_2, opacity=0.35)
            begin = max(host + prepare, device)
            figure.box(begin, y + 26, compute, 22, str(chunk), size=11, fill=ACCENT, opacity=0.35)
            device = begin + compute
            host = begin if overlapped else device
        figure.line((device, y - 4), (device, y + 52), color=MUTED, dashed=True)
    figure.text(352, 184, "time", size=11, anchor="end")
    return figure


def metal_execution() -> Figure:
    """Appendix: how the threads of a kernel are grouped, and which memory they see."""
    figure = Figure(
        312,
        "Grid, threadgroups, SIMD groups, and their memory",
        "A grid of 192 threads is made of three threadgroups. One of them is enlarged: its 64 "
        "threads are two SIMD groups of 32 lanes, each thread has memory of its own, and all 64 "
        "share the threadgroup memory. All threads of the grid share device and constant memory.",
    )
    left, width, cell = 12.0, 336.0, 9.0
    figure.text(180, 10, "grid: 192 threads")
    for group in range(3):
        fill, opacity = (ACCENT_2, 0.3) if group == 1 else (FILL, 1)
        figure.box(
            left + 114 * group, 22, 108, 32, f"threadgroup {group}", fill=fill, opacity=opacity
        )
    figure.line((126, 54), (left, 78), color=MUTED, dashed=True)
    figure.line((234, 54), (left + width, 78), color=MUTED, dashed=True)
    figure.box(left, 78, width, 178, fill="none", radius=8)
    figure.text(180, 93, "threadgroup 1: 64 threads")
    for simdgroup in range(2):
        y = 120 + 42 * simdgroup
        figure.text(36, y - 8, f"SIMD group {simdgroup}", size=12, anchor="start", color=MUTED)
        figure.text(324, y - 8, "lanes 0 to 31", size=12, anchor="end", color=MUTED)
        for lane in range(32):
            chosen = (simdgroup, lane) == (1, 6)
            fill, opacity = (ACCENT, 0.6) if chosen else (FILL, 1)
            figure.box(36 + cell * lane, y, cell, 18, fill=fill, opacity=opacity, radius=0)
    figure.line((36 + cell * 6.5, 180), (36 + cell * 6.5, 196), (106, 196), color=ACCENT)
    figure.text(110, 196, "a thread and its own thread memory", size=12, anchor="start")
    figure.box(36, 214, 288, 30, "threadgroup memory", fill=ACCENT_2, opacity=0.3)
    figure.arrow((180, 272), (180, 256))
    figure.arrow((180, 256), (180, 272))
    figure.box(left, 272, width, 32, "device and constant memory")
    return figure


def quantized_packing() -> Figure:
    """Week 2, day 2: a row of codes in words of 32 bits, with a scale and a bias per group."""
    figure = Figure(
        202,
        "How a quantized row is stored",
        "A row of 256 elements in four groups of 64. Each group has one scale, one bias, and 64 "
        "codes of 4 bits, which fill eight words of 32 bits. One word is enlarged: its first code, "
        "3, lies in the lowest four bits, at the right, and the eighth code, 6, in the highest.",
    )
    left, width = 12.0, 336.0
    figure.text(left, 10, "a row: 4 groups of 64 codes, 8 words each", size=12, anchor="start")
    for group in range(4):
        fill, opacity = (ACCENT_2, 0.3) if group == 1 else (FILL, 1)
        figure.box(
            left + 84 * group, 22, 84, 24, f"group {group}", size=12, fill=fill, opacity=opacity
        )
    figure.line((96, 46), (left, 66), color=MUTED, dashed=True)
    figure.line((180, 46), (left + width, 66), color=MUTED, dashed=True)
    figure.box(left, 66, 46, 28, "scale", size=12, fill=ACCENT, opacity=0.3)
    figure.box(left + 50, 66, 46, 28, "bias", size=12, fill=ACCENT, opacity=0.3)
    cell = 29.5
    for word in range(8):
        fill, opacity = (ACCENT_2, 0.6) if word == 0 else (ACCENT_2, 0.2)
        figure.box(
            left + 100 + cell * word, 66, cell, 28, f"w{word}", size=11, fill=fill,
            opacity=opacity, radius=0,
        )  # fmt: skip
    figure.line((left + 100, 94), (left, 116), color=MUTED, dashed=True)
    figure.line((left + 100 + cell, 94), (left + width, 116), color=MUTED, dashed=True)
    for place, code in enumerate((6, 2, 9, 5, 1, 4, 1, 3)):
        x = left + 42 * place
        figure.box(x, 116, 42, 28, f"{code:04b}", size=12, fill=ACCENT_2, opacity=0.3, radius=0)
        figure.text(x + 21, 156, f"{code}", size=12, bold=True)
        figure.text(x + 21, 171, f"code {7 - place}", size=10, color=MUTED)
    figure.text(left, 192, "bit 31", size=11, anchor="start", color=MUTED)
    figure.text(180, 192, "w0 = 0x62951413", size=12)
    figure.text(left + width, 192, "bit 0", size=11, anchor="end", color=MUTED)
    return figure


def matvec_lanes() -> Figure:
    """Week 2, day 2: which elements the codes belong to that are unpacked at once."""
    figure = Figure(
        260,
        "Eight words at once",
        "Eight words side by side, in the columns. Row i holds code number i of each word, and "
        "says which element of the group it is: in row 2 these are 2, 10, 18 and so on to 58. "
        "Prepared activations have the elements in the order of the rows.",
    )
    left, top, width, height = 66.0, 40.0, 35.0, 22.0
    for word in range(8):
        figure.text(left + width * (word + 0.5), 28, f"w{word}", size=11, color=MUTED)
    for i in range(8):
        y = top + height * i
        figure.text(left - 6, y + height / 2, f"code {i}", size=11, anchor="end", color=MUTED)
        for word in range(8):
            fill, opacity = (ACCENT, 0.45) if i == 2 else (FILL, 1)
            figure.box(
                left + width * word, y, width, height, str(8 * word + i), size=11, fill=fill,
                opacity=opacity, radius=0,
            )  # fmt: skip
    figure.text(left, 10, "one load: 8 words = 64 codes of 4 bits", size=12, anchor="start")
    figure.text(352, 230, "unpack(words, 2): the elements 2, 10, 18, ... 58", size=12, anchor="end")
    figure.text(352, 250, "interleaved: row 0, then row 1, then row 2, ...", size=12, anchor="end")
    return figure


def matmul_panel() -> Figure:
    """Week 2, day 2: a tile of sums in registers, between vectors and a panel of weights."""
    figure = Figure(
        300,
        "A panel and a tile",
        "The panel, above at the right, has a row for each element k, with that element of 16 rows "
        "of the weights. At the left are six vectors. Below the panel are the tile's sums, 6 by "
        "16. In step k, each vector's element k is multiplied with row k of the panel, and added "
        "to the sums of that vector.",
    )
    x0, y0 = 144.0, 30.0
    cell, rows = 12.0, 10
    figure.text(x0 + 8 * cell, 10, "panel: 16 rows of w, transposed", size=12)
    for k in range(rows):
        for column in range(16):
            fill, opacity = (ACCENT_2, 0.5) if k == 4 else (ACCENT_2, 0.12)
            figure.box(
                x0 + cell * column, y0 + cell * k, cell, cell, fill=fill, opacity=opacity,
                stroke=MUTED, radius=0,
            )  # fmt: skip
    figure.text(x0 - 6, y0 + cell * 4.5, "row k", size=12, anchor="end")
    figure.line((x0 + 8 * cell, y0 - 4), (x0 + 8 * cell, y0 + cell * rows + 4), width=2)
    figure.text(x0 + 4 * cell, y0 + cell * rows + 12, "left", size=11)
    figure.text(x0 + 12 * cell, y0 + cell * rows + 12, "right", size=11)
    top = y0 + cell * rows + 28
    for m in range(6):
        for k in range(rows):
            fill, opacity = (ACCENT, 0.55) if k == 4 else (FILL, 1)
            figure.box(
                12 + cell * k, top + cell * m, cell, cell, fill=fill, opacity=opacity,
                stroke=MUTED, radius=0,
            )  # fmt: skip
        for column in range(16):
            figure.box(
                x0 + cell * column, top + cell * m, cell, cell, fill=ACCENT, opacity=0.15,
                stroke=MUTED, radius=0,
            )  # fmt: skip
    figure.line((x0 + 8 * cell, top - 4), (x0 + 8 * cell, top + 6 * cell + 4), width=2)
    bottom = top + 6 * cell
    figure.text(12 + cell * rows / 2, bottom + 14, "6 vectors, column k", size=12)
    figure.text(x0 + 8 * cell, bottom + 14, f"6 {TIMES} 16 sums: 12 registers", size=12)
    figure.text(180, bottom + 34, f"step k: sums += column k {TIMES} row k", size=12)
    return figure


def imagined_roofline(figure: Figure, *products: tuple[float, tuple[str, str]]) -> None:
    """The roofline of week 2, day 2, with products: operations per byte, and two lines of name."""
    left, right, bottom, top = 46.0, 350.0, 222.0, 24.0
    low, high, slowest, fastest = 0.25, 512.0, 4.0, 256.0

    def x(intensity: float) -> float:
        return left + (right - left) * math.log(intensity / low) / math.log(high / low)

    def y(speed: float) -> float:
        return bottom - (bottom - top) * math.log(speed / slowest) / math.log(fastest / slowest)

    figure.line((left, top), (left, bottom), (right, bottom))
    for intensity in (0.5, 2, 8, 32, 128, 512):
        figure.line((x(intensity), bottom), (x(intensity), bottom + 4))
        figure.text(x(intensity), bottom + 13, f"{intensity:g}", size=11)
    for tick in (4, 16, 64, 256):
        figure.line((left - 4, y(tick)), (left, y(tick)))
        figure.text(left - 7, y(tick), f"{tick}", size=11, anchor="end")
    figure.text(left - 34, 10, "billion operations per second", size=11, anchor="start")
    figure.text((left + right) / 2, bottom + 32, "operations per byte", size=11)
    bandwidth, peak = 20, 160
    ridge = peak / bandwidth
    figure.line(
        (x(low), y(low * bandwidth)), (x(ridge), y(peak)), (right, y(peak)), color=ACCENT_2, width=2
    )
    figure.text(x(1.1), y(72), "20 GB/s", size=11, color=ACCENT_2)
    figure.text(x(64), y(peak) - 11, "160 billion/s", size=11, color=ACCENT_2)
    for intensity, lines in products:
        speed = min(peak, intensity * bandwidth)
        figure.line((x(intensity), y(speed)), (x(intensity), bottom), color=MUTED, dashed=True)
        figure.circle(x(intensity), y(speed), 4, fill=ACCENT)
        anchor = "end" if intensity > ridge else "start"
        shift = -8 if anchor == "end" else 8
        for row, text in enumerate(lines):
            figure.text(
                x(intensity) + shift, y(speed) + 16 + 14 * row, text, size=11, anchor=anchor
            )


def matmul_roofline() -> Figure:
    """Week 2, day 2: the roofline of an imagined machine, and where the products stand."""
    figure = Figure(
        268,
        "A roofline",
        "Operations per second against operations per byte, both axes logarithmic. Up to 8 "
        "operations per byte the bound rises with them, at 20 GB per second; from there on it is "
        "flat, at 160 billion operations per second. A vector times float32 weights has 0.5 and "
        "may reach 10; with 4-bit weights it has 3.5 and may reach 71; 128 vectors have 208 and "
        "may reach 160.",
    )
    imagined_roofline(
        figure,
        (0.5, ("1 vector,", "float32")),
        (3.54, ("1 vector,", "4 bits")),
        (208, ("128 vectors,", "4 bits")),
    )
    return figure


def coalesced_reads() -> Figure:
    """Week 2, day 3: which words the lanes of a SIMD group load at the same moment."""
    figure = Figure(
        262,
        "Loads of neighbouring lanes, far apart and side by side",
        "Above, each lane has a row of w of its own: the words that five lanes load at one moment "
        "are in five different lines of memory. Below, all lanes are in one row: lane 0 to lane 15 "
        "load the words 0 to 15, which fill two lines.",
    )
    left, cell = 66.0, 17.5

    def row(y: float, name: str, lanes: dict[int, int]) -> None:
        figure.text(left - 8, y + 9, name, size=11, anchor="end", color=MUTED)
        for word in range(16):
            lane = lanes.get(word)
            fill, opacity = (FILL, 1.0) if lane is None else (ACCENT, 0.5)
            text = "" if lane is None else str(lane)
            x = left + cell * word
            figure.box(
                x, y, cell, 18, text, size=10, fill=fill, opacity=opacity, stroke=MUTED, radius=0
            )
        for line in range(2):
            figure.box(left + 8 * cell * line, y, 8 * cell, 18, fill="none", radius=0)

    figure.text(6, 12, "a row for each lane", size=12, anchor="start", bold=True)
    for index in range(5):
        row(26 + 24 * index, f"row {index}", {0: index})
    figure.text(left, 156, "5 lanes, 5 lines for 5 words", size=12, anchor="start")
    figure.text(6, 184, "a row for all lanes", size=12, anchor="start", bold=True)
    row(198, "row 0", {word: word for word in range(16)})
    figure.text(left, 230, "16 lanes, 2 lines for 16 words", size=12, anchor="start")
    figure.text(
        left, 250, "numbers: lanes; thick frames: lines", size=11, anchor="start", color=MUTED
    )
    return figure


def simdgroup_rows() -> Figure:
    """Week 2, day 3: how a SIMD group goes through four rows of w."""
    figure = Figure(
        262,
        "A SIMD group and four rows of w",
        "A row of w has 64 words. In the first pass lane 0 to lane 31 take words 0 to 31, in the "
        "second pass words 32 to 63. The elements of x that belong to a word are loaded once and "
        "used for four rows. Then each lane holds a part of four sums, and simd_sum adds up the "
        "parts of the 32 lanes.",
    )
    left, cell = 58.0, 13.0
    passes = [(left, 0), (left + 9.5 * cell, 32)]
    shown = [0, 1, 2, None, None, 30, 31]

    def strip(y: float, height: float, name: str, fill: str, opacity: float) -> None:
        figure.text(left - 8, y + height / 2, name, size=11, anchor="end")
        for start, first in passes:
            for index, lane in enumerate(shown):
                if lane is None:
                    if shown[index - 1] is not None:
                        figure.text(start + cell * (index + 1), y + height / 2, "…", size=12)
                    continue
                chosen = lane == 1
                figure.box(
                    start + cell * index, y, cell, height,
                    fill=fill if chosen else FILL, opacity=opacity if chosen else 1, radius=0,
                )  # fmt: skip
                if name == "x":
                    figure.text(start + cell * (index + 0.5), y - 10, str(first + lane), size=9)

    figure.text(left + 8 * cell, 10, "word", size=11, color=MUTED)
    strip(36, 20, "x", ACCENT_2, 0.5)
    note = "loaded once by its lane, used for 4 rows"
    figure.text(left, 68, note, size=11, anchor="start", color=ACCENT_2)
    for index in range(4):
        y = 84 + 26 * index
        strip(y, 20, f"row {index}", ACCENT, 0.5)
        figure.arrow((left + 17 * cell, y + 10), (left + 18.6 * cell, y + 10))
        figure.text(left + 18.9 * cell, y + 10, f"sums[{index}]", size=10, anchor="start")
    figure.text(left, 198, "lane 1: words 1, 33, ...", size=11, anchor="start", color=ACCENT)
    figure.text(left, 220, "32 lanes, each with a part of 4 sums", size=12, anchor="start")
    figure.text(left, 244, f"4 {TIMES} simd_sum: 4 elements of y", size=12, anchor="start")
    return figure


def matmul_tiles() -> Figure:
    """Week 2, day 3: the tiles of a threadgroup, and who computes what of them."""
    figure = Figure(
        342,
        "Tiles of a quantized product",
        "Left: a is M by K, w is drawn with a column for each of its N rows, y is M by N. A "
        "threadgroup computes a tile of y of 32 by 32; in each step along K it needs a tile of a "
        "and a dequantized tile of w. The last tiles hang over the edges. Right: the tile of y is "
        "cut into quarters, one for each of the four SIMD groups, and a quarter is made of 2 by 2 "
        "matrices of 8 by 8.",
    )
    tile = 22.0
    a_x, w_x, w_y, y_y = 24.0, 108.0, 30.0, 124.0
    # w, 3 steps along k high and 2.5 tiles of its rows wide.
    figure.text(w_x + 1.25 * tile, 10, "w: N rows, drawn as columns", size=11)
    figure.text(w_x - 8, w_y + 1.5 * tile, "K", size=11, anchor="end", color=MUTED)
    figure.box(w_x, w_y, 2.5 * tile, 3 * tile, radius=0)
    figure.text(a_x + 1.5 * tile, y_y - 12, f"a: M {TIMES} K", size=11)
    figure.box(a_x, y_y, 3 * tile, 2.3 * tile, radius=0)
    figure.box(w_x, y_y, 2.5 * tile, 2.3 * tile, radius=0)
    # The tiles of one threadgroup in its second step.
    figure.box(
        w_x + tile, w_y + tile, tile, tile, fill=ACCENT, opacity=0.5, stroke=ACCENT, radius=0
    )
    figure.box(
        a_x + tile, y_y + tile, tile, tile, fill=ACCENT_2, opacity=0.5, stroke=ACCENT_2, radius=0
    )
    figure.box(w_x + tile, y_y + tile, tile, tile, fill=MUTED, opacity=0.5, radius=0)
    figure.arrow((a_x + 2 * tile, y_y + 1.5 * tile), (w_x + tile, y_y + 1.5 * tile), color=ACCENT_2)
    figure.arrow((w_x + 1.5 * tile, w_y + 2 * tile), (w_x + 1.5 * tile, y_y + tile), color=ACCENT)
    # The tiles of the edge, which are computed whole.
    for column in range(3):
        for line in range(3):
            if column == 2 or line == 2:
                x, y = w_x + column * tile, y_y + line * tile
                figure.line(
                    (x, y), (x + tile, y), (x + tile, y + tile), (x, y + tile), (x, y),
                    color=MUTED, width=1, dashed=True,
                )  # fmt: skip
    figure.text(w_x + 1.5 * tile, y_y + 3 * tile + 12, f"y: M {TIMES} N", size=11)
    figure.text(
        w_x + 1.5 * tile, y_y + 3 * tile + 28, "dashed: tiles over the edge", size=10, color=MUTED
    )
    # One tile of y, enlarged.
    big, x0, y0 = 27.0, 238.0, 72.0
    figure.text(x0 + 2 * big, y0 - 32, "a tile of y", size=12)
    figure.text(x0 + 2 * big, y0 - 16, f"32 {TIMES} 32", size=11, color=MUTED)
    for index in range(16):
        line, column = divmod(index, 4)
        quarter = line // 2 * 2 + column // 2
        fill = (ACCENT, ACCENT_2, MUTED, INK)[quarter]
        figure.box(
            x0 + big * column, y0 + big * line, big, big, fill=fill, opacity=0.2, stroke=MUTED,
            radius=0,
        )  # fmt: skip
    for quarter in range(4):
        x, y = x0 + 2 * big * (quarter % 2), y0 + 2 * big * (quarter // 2)
        figure.box(x, y, 2 * big, 2 * big, fill="none", radius=0)
        figure.text(x + big, y + 0.5 * big, "SIMD", size=11)
        figure.text(x + big, y + 1.5 * big, f"group {quarter}", size=11)
    note = f"small squares: 8 {TIMES} 8"
    figure.text(x0 + 2 * big, y0 + 4 * big + 16, note, size=11, color=MUTED)
    # What is shared.
    figure.box(24, 252, 320, 80, fill="none", radius=8, stroke=MUTED)
    figure.text(184, 266, "threadgroup memory, 12 KiB of 32", size=11, color=MUTED)
    for index, (name, note, fill) in enumerate(
        (
            ("a_tile", f"vectors {TIMES} k", ACCENT_2),
            ("w_tile", f"rows of w {TIMES} k", ACCENT),
            ("y_tile", f"vectors {TIMES} rows", MUTED),
        )
    ):
        x = 36 + 102 * index
        figure.box(x, 278, 92, 44, fill=fill, opacity=0.3)
        figure.text(x + 46, 292, name, size=12)
        figure.text(x + 46, 310, note, size=11)
    return figure


def _draw_barriers(
    figure: Figure,
    column: float,
    parts: Sequence[tuple[str, str, Sequence[int]]],
    notes: dict[int, tuple[str, str, str]],
) -> None:
    """Four SIMD groups side by side, time downwards, with a line at each barrier.

    Args:
        figure: what is drawn on.
        column: the width of a SIMD group.
        parts: name, color, and how long each of the groups takes.
        notes: by the part that a barrier follows: its name, and two lines on what it protects.
    """
    left, right = 36.0, 36.0 + 4 * column
    figure.text((left + right) / 2, 10, "SIMD group", size=11, color=MUTED)
    for group in range(4):
        figure.text(left + column * (group + 0.5), 26, str(group), size=11, color=MUTED)
    figure.arrow((18, 44), (18, 310), color=MUTED)
    figure.text(18, 34, "time", size=10, color=MUTED)
    for index, (name, color, lengths) in enumerate(parts):
        top = 38 + 47 * index
        for group, length in enumerate(lengths):
            x = left + column * group
            figure.box(x + 2, top, column - 4, length, fill=color, opacity=0.3, radius=2)
            figure.text(x + column / 2, top + 11, name, size=9)
        if index in notes:
            y = top + 41.5
            figure.line((left - 6, y), (right + 4, y), width=2.4)
            title, first, second = notes[index]
            figure.text(
                right + 9, y - (9 if first else 0), title, size=11, anchor="start", bold=True
            )
            figure.text(right + 9, y + 5, first, size=10, anchor="start")
            figure.text(right + 9, y + 17, second, size=10, anchor="start")


def tile_barriers() -> Figure:
    """Week 2, day 3: what each barrier of the tiled product protects."""
    figure = Figure(
        326,
        "Three barriers, and what each of them protects",
        "Time goes down, the four SIMD groups of a threadgroup are four columns. They load tiles "
        "and wait at barrier 1; multiply and wait at barrier 2; load the tiles of the next step, "
        "and so on. After the last step they store their sums in y_tile, wait at barrier 3, and "
        "write to y. The groups do not take equally long for one part. Barrier 1: nobody reads "
        "a tile before all have written. Barrier 2: nobody writes to the tiles of the next step "
        "before all have read. Barrier 3: nobody reads y_tile before all have written.",
    )
    parts = [
        ("load", ACCENT, (30, 22, 34, 26)),
        ("multiply", ACCENT_2, (24, 34, 28, 32)),
        ("load", ACCENT, (34, 28, 22, 30)),
        ("multiply", ACCENT_2, (30, 26, 34, 24)),
        ("store", MUTED, (26, 34, 30, 22)),
        ("write y", INK, (30, 24, 34, 28)),
    ]
    notes = {
        0: ("barrier 1", "the tiles are complete", "before anybody reads them"),
        1: ("barrier 2", "all have read the tiles", "before anybody overwrites"),
        2: ("barrier 1", "of the next step", ""),
        3: ("barrier 2", "of the next step", ""),
        4: ("barrier 3", "y_tile is complete", "before anybody reads it"),
    }
    _draw_barriers(figure, 42.0, parts, notes)
    return figure


def gpu_roofline() -> Figure:
    """Week 2, day 3: what bounds the two products on a GPU, by published numbers."""
    figure = Figure(
        270,
        "A roofline from published numbers",
        "Operations per second against operations per byte, both on logarithmic axes. Up to 39 "
        "operations per byte the bound rises with the memory's 67 gigabytes per second, and then "
        "it is flat at 2,600 billion operations per second. The product of one vector has 3.5 "
        "operations per byte and is bounded at about 240; the one of 128 vectors has 286 and is "
        "under the flat part.",
    )
    peak, bandwidth = 2600.0, 100 / 1.5  # billions per second; as in the chapter's first example
    left, right, top, bottom = 52.0, 340.0, 24.0, 218.0

    def place(intensity: float, rate: float) -> Point:
        return (
            left + (right - left) * math.log10(intensity) / 3,
            bottom - (bottom - top) * (math.log10(rate) - 1.5) / 2.2,
        )

    figure.line((left, top - 8), (left, bottom), (right, bottom), color=MUTED)
    for tick in (1, 10, 100, 1000):
        x, _ = place(tick, 100)
        figure.line((x, bottom), (x, bottom + 4), color=MUTED)
        figure.text(x, bottom + 13, f"{tick:,}", size=10, color=MUTED)
    for rate in (100, 1000):
        _, y = place(1, rate)
        figure.line((left - 4, y), (left, y), color=MUTED)
        figure.text(left - 8, y, f"{rate:,}", size=10, anchor="end", color=MUTED)
    figure.text(left - 46, 8, "billion operations/s", size=11, anchor="start", color=MUTED)
    figure.text((left + right) / 2, bottom + 32, "operations per byte", size=11, color=MUTED)
    corner = place(peak / bandwidth, peak)
    figure.line(place(1, bandwidth), corner, place(1000, peak), width=2.4)
    figure.text(corner[0] + 8, corner[1] - 9, "arithmetic", size=11, anchor="start")
    figure.text(128, 92, "memory", size=11, anchor="end")
    figure.line(corner, (corner[0], bottom), color=MUTED, dashed=True)
    figure.text(corner[0] + 4, bottom - 10, "39", size=11, anchor="start", color=MUTED)
    for name, intensity, color in (
        (f"1 {TIMES} 4096 {TIMES} 4096", 3.548, ACCENT),
        (f"128 {TIMES} 1024 {TIMES} 3072", 285.8, ACCENT_2),
    ):
        x, y = place(intensity, min(peak, bandwidth * intensity))
        figure.line((x, y), (x, bottom), color=color, width=2)
        figure.circle(x, y, 4, fill=color)
        figure.text(x, bottom + 48, name, size=11, color=color)
    return figure


def online_softmax() -> Figure:
    """Week 2, day 4: what is kept of a query, after each of two blocks of keys."""
    figure = Figure(
        290,
        "The online softmax, block by block",
        "Before any key, the maximum is minus infinity, total and output are 0. Block 0 has scores "
        "log 1 and log 2 and values 10 and 40: maximum log 2, weights one half and 1, total 1.5, "
        "output 45. Block 1 has scores log 4 and log 1 and values 20 and 30: maximum log 4, what "
        "was kept is multiplied by one half, weights 1 and one quarter, total 2, output 50. At the "
        "end output divided by total is 25.",
    )
    half, quarter = "\N{VULGAR FRACTION ONE HALF}", "\N{VULGAR FRACTION ONE QUARTER}"
    minus_infinity = "\N{MINUS SIGN}\N{INFINITY}"
    left, width = 152.0, 66.0
    for i, name in enumerate(("maximum", "total", "output")):
        figure.text(left + width * (i + 0.5), 10, name, size=12, color=MUTED)
    figure.text(66, 10, "a block: score, value", size=12, color=MUTED)

    def kept(y: float, *numbers: str) -> None:
        for i, number in enumerate(numbers):
            figure.box(left + width * i, y, width, 28, number, fill=ACCENT, opacity=0.2, radius=0)

    def block(y: float, name: str, pairs: tuple[tuple[str, str], ...], step: str) -> None:
        figure.box(6, y, 120, 44, radius=3, fill=ACCENT_2, opacity=0.15)
        figure.text(12, y + 22, name, size=11, anchor="start", color=MUTED)
        for row, (score, value) in enumerate(pairs):
            figure.text(86, y + 12 + 20 * row, score, anchor="end")
            figure.text(116, y + 12 + 20 * row, value, anchor="end")
        figure.arrow((126, y + 22), (left + 8, y + 22))
        figure.text(left + 12, y + 22, step, size=11, anchor="start")

    def down(y: float) -> None:
        figure.arrow((left + 190, y), (left + 190, y + 64))

    kept(22, minus_infinity, "0", "0")
    down(50)
    block(58, "0", (("log 1", "10"), ("log 2", "40")), f"kept {TIMES} 0, weights {half}, 1")
    kept(114, "log 2", "1.5", "45")
    down(142)
    block(
        150, "1", (("log 4", "20"), ("log 1", "30")), f"kept {TIMES} {half}, weights 1, {quarter}"
    )
    kept(206, "log 4", "2", "50")
    figure.arrow((left + 1.5 * width, 234), (left + 1.5 * width, 258))
    figure.text(left + 1.5 * width, 272, "output / total = 50 / 2 = 25", size=12)
    return figure


def attention_blocks() -> Figure:
    """Week 2, day 4: which blocks of a causal score matrix are computed."""
    figure = Figure(
        300,
        "The blocks of a causal matrix of scores",
        "16 queries and 24 keys, in panels of 4 queries and blocks of 8 keys. Query 0 sees 9 keys, "
        "query 15 all 24. Panel 0: block 0 whole, of block 1 the first 4 keys, cut, block 2 "
        "skipped. Panel 1: block 0 whole, block 1 cut, block 2 skipped. Panel 2: blocks 0 and 1 "
        "whole, of block 2 the first 4 keys, cut. Panel 3: blocks 0 and 1 whole, block 2 cut.",
    )
    L, S, rows, columns, cell = 16, 24, 4, 8, 11.0
    left, top = 88.0, 42.0
    for block in range(S // columns):
        x = left + cell * columns * (block + 0.5)
        figure.text(x, 12, f"block {block}", size=12, color=MUTED)
        figure.text(x, 28, f"keys {columns * block} to {columns * block + 7}", size=11, color=MUTED)
    for panel in range(L // rows):
        y = top + cell * rows * (panel + 0.5)
        figure.text(left - 8, y - 8, f"panel {panel}", size=12, anchor="end", color=MUTED)
        least = S - L + rows * panel + 1
        figure.text(
            left - 8, y + 8, f"sees {least} to {least + 3}", size=11, anchor="end", color=MUTED
        )
    for query in range(L):
        visible = S - L + query + 1
        most = S - L + rows * (query // rows + 1)
        for key in range(S):
            fill, opacity = (ACCENT, 0.45) if key < visible else (ACCENT_2, 0.45)
            if key >= most:
                fill, opacity = FILL, 1
            figure.box(
                left + cell * key, top + cell * query, cell, cell, fill=fill, opacity=opacity,
                stroke=MUTED, radius=0,
            )  # fmt: skip
    right, bottom = left + cell * S, top + cell * L
    for block in range(S // columns + 1):
        x = left + cell * columns * block
        figure.line((x, top - 4), (x, bottom + 4), width=2)
    for panel in range(L // rows + 1):
        y = top + cell * rows * panel
        figure.line((left - 4, y), (right + 4, y), width=2)
    for row, (color, opacity, text) in enumerate(
        (
            (ACCENT, 0.45, "computed and used"),
            (ACCENT_2, 0.45, "computed, and hidden: a score of \N{MINUS SIGN}\N{INFINITY}"),
            (FILL, 1.0, "not computed, keys and values not read"),
        )
    ):
        y = bottom + 24 + 18 * row
        figure.box(left, y - 6, cell, cell, fill=color, opacity=opacity, stroke=MUTED, radius=0)
        figure.text(left + 20, y, text, size=11, anchor="start")
    return figure


def attention_roofline() -> Figure:
    """Week 2, day 4: attention at decode and at prefill, under the roofline of day 2."""
    figure = Figure(
        268,
        "The roofline of attention",
        "The roofline of day 2: 20 GB per second up to 8 operations per byte, then 160 billion "
        "operations per second. Decode has 1 operation per byte with two query heads in a group "
        "and may reach 20; 4 with eight, and may reach 80. Prefill has 171 and may reach 160.",
    )
    imagined_roofline(
        figure,
        (1, ("decode,", "group of 2")),
        (4, ("decode,", "group of 8")),
        (171, ("prefill,", "causal")),
    )
    return figure


def attention_panel() -> Figure:
    """Week 2, day 4: the arrays that a panel and a block of keys make of each other."""
    figure = Figure(
        364,
        "A panel of queries and a block of keys",
        "Above, the queries: D rows of 24 lanes, one query in each lane; lanes alternate between "
        "head 0 and head 1 of positions 0, 1, 2 and so on. Left of the scores, the keys: 64 rows "
        "of D features. Scores are 64 rows, one for each key, of 24 lanes. Below, the values at "
        "the left, transposed, make of them the output, D rows of 24 lanes.",
    )
    left, cell, lanes = 154.0, 8.0, 24
    width = cell * lanes

    def lanes_box(y: float, rows: int, color: str, marked: int = -1, count: int = 1) -> None:
        for row in range(rows):
            on = marked <= row < marked + count
            figure.box(
                left, y + cell * row, width, cell, fill=color, opacity=0.6 if on else 0.15,
                stroke=MUTED, radius=0,
            )  # fmt: skip
        for vector in range(4):
            x = left + 8 * cell * vector
            figure.line((x, y - 3), (x, y + cell * rows + 3), width=1.6)

    def rows_box(y: float, rows: int, columns: int, marks: set[tuple[int, int]]) -> None:
        for row in range(rows):
            for column in range(columns):
                on = (row, column) in marks
                figure.box(
                    left - 20 - cell * (columns - column), y + cell * row, cell, cell,
                    fill=ACCENT, opacity=0.7 if on else 0.12, stroke=MUTED, radius=0,
                )  # fmt: skip

    figure.text(left + width / 2, 9, "position 0, 0, 1, 1, 2, 2, ...", size=11, color=MUTED)
    figure.text(left + width / 2, 24, "head 0, 1, 0, 1, 0, 1, ...", size=11, color=MUTED)
    lanes_box(38, 8, ACCENT_2, 2)
    figure.text(left - 14, 62, f"queries, D {TIMES} 24", size=12, anchor="end")
    figure.text(left - 14, 78, "row d", size=11, anchor="end", color=MUTED)
    # Keys make scores.
    lanes_box(122, 10, ACCENT, 4, 4)
    rows_box(122, 10, 8, {(row, 2) for row in range(4, 8)})
    figure.text(left - 20 - 4 * cell, 112, "keys", size=12)
    figure.text(left + width / 2, 112, f"scores, then weights: 64 {TIMES} 24", size=12)
    figure.text(left - 90, 158, "4 keys,", size=11, anchor="end", color=MUTED)
    figure.text(left - 90, 172, "feature d", size=11, anchor="end", color=MUTED)
    # Weights and values make outputs.
    figure.line((6, 220), (354, 220), color=MUTED, dashed=True)
    lanes_box(252, 8, ACCENT, 4, 4)
    rows_box(240, 10, 8, {(5, column) for column in range(4, 8)})
    figure.text(left - 20 - 4 * cell, 230, "values", size=12)
    figure.text(left + width / 2, 240, f"output: D {TIMES} 24", size=12)
    figure.text(left - 90, 276, "one key,", size=11, anchor="end", color=MUTED)
    figure.text(left - 90, 290, "4 features", size=11, anchor="end", color=MUTED)
    figure.text(180, 340, f"dark: a tile of 4 {TIMES} 24 sums in 12 registers, and", size=12)
    figure.text(180, 356, "the four numbers that it takes in one step", size=12)
    return figure


def flash_threadgroup() -> Figure:
    """Week 2, day 5: what a threadgroup of flash attention takes, and where it puts it."""
    figure = Figure(
        276,
        "What a threadgroup computes, and its memory",
        "Left: the L rows of q of one head are cut into blocks of 16; the last one hangs over the "
        "edge. A threadgroup copies its block to query_tile, 16 rows of D + 1 floats, of which "
        "each of its four SIMD groups takes 4. Right: k and v of the head's group, S rows, are cut "
        "into tiles of 32, the last one over the edge. The keys of a tile, and after them its "
        "values, are copied to the same place, named tile, 32 rows of D + 1 floats.",
    )
    q_x, k_x, v_x, top, block, keys, width = 22.0, 252.0, 304.0, 40.0, 26.0, 46.0, 40.0
    figure.text(q_x + width / 2, 12, "q of one head", size=11)
    figure.text(q_x + width / 2, 26, f"L {TIMES} D", size=11, color=MUTED)
    figure.text((k_x + v_x + width) / 2, 12, "k and v of its group", size=11)
    figure.text((k_x + v_x + width) / 2, 26, f"S {TIMES} D each", size=11, color=MUTED)
    figure.box(q_x, top, width, 4.6 * block, radius=0)
    for index in range(5):
        figure.line(
            (q_x, top + index * block), (q_x + width, top + index * block), color=MUTED, width=0.8
        )
    for x in (k_x, v_x):
        figure.box(x, top, width, 3.5 * keys, radius=0)
        for index in range(4):
            figure.line(
                (x, top + index * keys), (x + width, top + index * keys), color=MUTED, width=0.8
            )
    # Over the edges.
    for x, start, end in (
        (q_x, top + 4.6 * block, top + 5 * block),
        (k_x, top + 3.5 * keys, top + 4 * keys),
        (v_x, top + 3.5 * keys, top + 4 * keys),
    ):
        figure.line(
            (x, start), (x, end), (x + width, end), (x + width, start), color=MUTED, width=1,
            dashed=True,
        )  # fmt: skip
    figure.text(q_x + width / 2, top + 5 * block + 12, "blocks of 16", size=10, color=MUTED)
    figure.text((k_x + v_x + width) / 2, top + 4 * keys + 24, "tiles of 32", size=10, color=MUTED)
    q_y, k_y = top + block, top + keys
    figure.box(q_x, q_y, width, block, fill=ACCENT_2, opacity=0.5, stroke=ACCENT_2, radius=0)
    figure.box(k_x, k_y, width, keys, fill=ACCENT, opacity=0.5, stroke=ACCENT, radius=0)
    figure.box(v_x, k_y, width, keys, fill=MUTED, opacity=0.5, stroke=MUTED, radius=0)
    # Threadgroup memory.
    x, w = 100.0, 116.0
    figure.text(x + w / 2, 12, "threadgroup memory", size=11, color=MUTED)
    figure.box(x - 6, 22, w + 12, 244, fill="none", radius=8, stroke=MUTED)
    figure.text(x + w / 2, 36, "query_tile", size=12)
    for group in range(4):
        y = 48 + 18 * group
        figure.box(x, y, w, 18, fill=ACCENT_2, opacity=0.3, stroke=MUTED, radius=0)
        figure.text(x + w / 2, y + 9, f"4, SIMD group {group}", size=10)
    figure.text(x + w / 2, 142, "tile", size=12)
    figure.box(x, 154, w, 92, fill=ACCENT, opacity=0.3, stroke=MUTED, radius=0)
    figure.text(x + w / 2, 188, "32 keys,", size=11)
    figure.text(x + w / 2, 206, "then 32 values,", size=11)
    figure.text(x + w / 2, 224, "for all SIMD groups", size=11)
    figure.text(x + w / 2, 256, "rows of D + 1 floats", size=10, color=MUTED)
    figure.arrow((q_x + width, q_y + block / 2), (x - 1, 80), color=ACCENT_2)
    figure.arrow((k_x, k_y + keys / 2), (x + w + 1, 186), color=ACCENT)
    gap = (k_x + width + v_x) / 2
    figure.arrow((v_x, k_y + 30), (gap, k_y + 30), (gap, 236), (x + w + 1, 236), color=MUTED)
    return figure


def flash_lanes() -> Figure:
    """Week 2, day 5: the two roles of a lane, and how the weights get from one to the other."""
    figure = Figure(
        262,
        "A lane has a key, and then features",
        "Two grids of 4 rows, one for each query of a SIMD group. The upper one has 32 columns, a "
        "key of the tile for each lane: the scores, then the weights. Lane 5 has key 5 of all four "
        "queries. simd_max and simd_sum go along a row. The lower one is the output, with D "
        "columns, shown for D = 64: lane 5 has the features 5 and 37. For each key j, "
        "simd_shuffle gives weight j of a row to all lanes.",
    )
    left, cell, height = 66.0, 8.75, 15.0

    def grid(top: float, marked: Sequence[tuple[int, int]], scale: float) -> None:
        for query in range(4):
            y = top + height * query
            figure.text(left - 8, y + height / 2, f"query {query}", size=10, anchor="end")
            figure.box(left, y, 32 * cell, height, radius=0, stroke=MUTED)
        for first, count in marked:
            figure.box(
                left + first * cell * scale, top, count * cell * scale, 4 * height, fill=ACCENT,
                opacity=0.5, stroke=ACCENT, radius=0,
            )  # fmt: skip

    middle = left + 16 * cell
    figure.text(middle, 12, "weights: a key for each lane", size=12)
    grid(26, [(5, 1)], 1)
    figure.text(left + 5.5 * cell, 96, "lane 5: key 5", size=10, color=ACCENT)
    figure.arrow((left + 12 * cell, 33.5), (left + 31 * cell, 33.5), color=INK)
    figure.text(left + 22 * cell, 96, "simd_max, simd_sum: along a row", size=10)
    x = left + 8 * cell
    figure.arrow((x, 108), (x, 146), color=ACCENT_2)
    figure.text(x + 8, 120, "simd_shuffle(weights[i], j): lane j", size=10, anchor="start")
    figure.text(x + 8, 134, "gives its weight to all lanes", size=10, anchor="start")
    figure.text(middle, 158, "output: every 32nd feature for each lane (D = 64)", size=11)
    grid(172, [(5, 1), (37, 1)], 0.5)
    figure.text(left + 8 * cell, 242, "lane 5: features 5 and 37", size=10, color=ACCENT)
    return figure


def flash_barriers() -> Figure:
    """Week 2, day 5: the four barriers of a step."""
    figure = Figure(
        322,
        "Four barriers, and what each of them protects",
        "Time goes down, the four SIMD groups of a threadgroup are four columns. In each step they "
        "load keys, wait at barrier 1, compute scores and weights, wait at barrier 2, load values, "
        "wait at barrier 3, add to the output, wait at barrier 4, and load the keys of the next "
        "step. Barrier 1: keys, and in the first step queries, are complete. Barrier 2: all have "
        "read the keys before the values take their place. Barrier 3: the values are complete. "
        "Barrier 4: all have read the values before the next keys take their place.",
    )
    parts = [
        ("queries", ACCENT_2, (26, 22, 30, 24)),
        ("keys", ACCENT, (30, 22, 34, 26)),
        ("weights", INK, (24, 34, 28, 32)),
        ("values", MUTED, (34, 28, 22, 30)),
        ("output", INK, (30, 26, 34, 24)),
        ("keys", ACCENT, (26, 34, 30, 22)),
    ]
    notes = {
        1: ("barrier 1", "keys (and queries)", "are complete"),
        2: ("barrier 2", "all have read the keys", "before values overwrite"),
        3: ("barrier 3", "the values are", "complete"),
        4: ("barrier 4", "all have read the values", "before keys overwrite"),
    }
    _draw_barriers(figure, 46.0, parts, notes)
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "request-path": request_path,
    "week-1-map": week_1_map,
    "attention": attention,
    "multi-head": multi_head,
    "rope-rotation": rope_rotation,
    "rope-pairings": rope_pairings,
    "causal-mask": causal_mask,
    "grouped-heads": grouped_heads,
    "mlp": mlp,
    "silu": silu,
    "qwen3-model": qwen3_model,
    "transformer-block": transformer_block,
    "qwen3-attention": qwen3_attention,
    "generation-loop": generation_loop,
    "sampling-filters": sampling_filters,
    "week-2-engine": week_2_engine,
    "kv-cache": kv_cache,
    "kv-cache-growth": kv_cache_growth,
    "schedule-simulator": schedule_simulator,
    "mask-explorer": mask_explorer,
    "static-and-continuous": static_and_continuous,
    "batching-slots": batching_slots,
    "chunk-bands": chunk_bands,
    "lazy-chunks": lazy_chunks,
    "scheduler-step": scheduler_step,
    "prefill-schedules": prefill_schedules,
    "deadline-chunks": deadline_chunks,
    "prefill-states": prefill_states,
    "overlapped-chunks": overlapped_chunks,
    "metal-execution": metal_execution,
    "quantized-packing": quantized_packing,
    "matvec-lanes": matvec_lanes,
    "matmul-panel": matmul_panel,
    "matmul-roofline": matmul_roofline,
    "coalesced-reads": coalesced_reads,
    "simdgroup-rows": simdgroup_rows,
    "matmul-tiles": matmul_tiles,
    "tile-barriers": tile_barriers,
    "gpu-roofline": gpu_roofline,
    "online-softmax": online_softmax,
    "attention-blocks": attention_blocks,
    "attention-panel": attention_panel,
    "attention-roofline": attention_roofline,
    "flash-threadgroup": flash_threadgroup,
    "flash-lanes": flash_lanes,
    "flash-barriers": flash_barriers,
}

if __name__ == "__main__":
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FIGURES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
        print(FIGURES / f"{name}.svg")
