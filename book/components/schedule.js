// The logic of <schedule-simulator>, without a document, so that it can be tested by itself.
//
// Times are in milliseconds and come from a cost model, not from a measurement. Every forward pass
// of the model takes
//
//     t = c + sum over its chunks (b x + a (2 L x + x^2) + g L) + d D
//
// for chunks of x tokens behind L cached ones, and D decoding requests.
//
// These are classic scripts in one namespace, not modules: a browser loads no module from a file,
// and the book can be read without a server.
"use strict";

(function schedule(book) {
    const COST = { c: 8, b: 0.1, a: 0.000005, g: 0.001, d: 0.5 };

    // The defaults of mlx-lm's BatchGenerator.
    const MLX_LM_PROMPTS = 8;
    const MLX_LM_TOKENS = 2048;

    const POLICIES = {
        chunk: {
            label: "One chunk, then one decode step (day 7)",
            about: "One chunk of the oldest unfinished prompt, then one decode step for every " +
                "slot that is taken: two forward passes. A finished prompt that finds no free " +
                "slot waits, and the next prompt with it.",
            chunk: "Chunk size",
            step: chunkThenDecode,
        },
        whole: {
            label: "Whole prompts first (day 6)",
            about: "As long as a slot is free, the next prompt, whole, in a forward pass of its " +
                "own; then one decode step. The chunk size has no say.",
            chunk: null,
            step: wholePromptsFirst,
        },
        alternate: {
            label: "Alternate, as mlx-lm does",
            about: `One decode step, then one forward pass with the next ${MLX_LM_TOKENS} tokens ` +
                `at most of ${MLX_LM_PROMPTS} prompts at most, padded to the longest. The last ` +
                "token of a prompt comes in a pass of its own. The chunk size has no say.",
            chunk: null,
            step: alternate,
        },
        budget: {
            label: "Token budget (Sarathi-Serve, vLLM V1)",
            about: "One forward pass: a token of every decoding request first, then prompts, " +
                "oldest first, in what is left of the budget. The chunk size is the budget.",
            chunk: "Token budget",
            step: tokenBudget,
        },
    };

    const PRESETS = {
        frozen: {
            label: "One long prompt into four streams",
            slots: 5,
            requests: [
                ...Array.from({ length: 4 }, () => ({ arrival: 0, prompt: 64, answer: 48 })),
                { arrival: 150, prompt: 4096, answer: 8 },
            ],
        },
        mixed: {
            label: "Mixed lengths",
            slots: 8,
            requests: [20, 20, 20, 2000, 20, 20, 20, 20].map(
                (prompt) => ({ arrival: 0, prompt, answer: 24 }),
            ),
        },
        "short-behind-long": {
            label: "Short behind long",
            slots: 4,
            requests: [
                { arrival: 0, prompt: 4096, answer: 16 },
                { arrival: 10, prompt: 32, answer: 16 },
                { arrival: 20, prompt: 32, answer: 16 },
                { arrival: 30, prompt: 32, answer: 16 },
            ],
        },
    };

    // chunks: objects with the tokens that were cached before (offset) and the tokens that are
    // computed, padding included (width). decodes: how many requests decode in the same pass.
    function passTime(chunks, decodes, cost = COST) {
        let time = cost.c;
        for (const { offset, width } of chunks) {
            time += cost.b * width + cost.a * (2 * offset * width + width * width)
                + cost.g * offset;
        }
        return time + cost.d * decodes;
    }

    class Engine {
        constructor(requests, batchSize, chunkSize) {
            this.batchSize = batchSize;
            this.chunkSize = chunkSize;
            this.now = 0;
            this.requests = requests.map((request, id) => (
                { ...request, id, offset: 0, tokenTimes: [] }
            ));
            this.arriving = [...this.requests].sort((r, s) => r.arrival - s.arrival);
            this.waiting = [];
            this.prefilling = []; // begun, in the order in which they began
            this.prefilled = null; // has its first token and waits for a slot
            this.slots = Array(batchSize).fill(null);
            this.passes = [];
        }

        get decoding() {
            return this.slots.filter((request) => request !== null);
        }

        // Let the requests in that have arrived; wait for the next one if there is nothing to do.
        // Returns whether there is anything to do.
        admit() {
            const idle = !this.waiting.length && !this.prefilling.length && !this.prefilled
                && !this.decoding.length;
            if (idle && this.arriving.length) {
                this.now = Math.max(this.now, this.arriving[0].arrival);
            }
            while (this.arriving.length && this.arriving[0].arrival <= this.now) {
                this.waiting.push(this.arriving.shift());
            }
            return !idle || this.waiting.length > 0;
        }

        // Run a forward pass: chunks are pairs of a request and a number of tokens.
        pass(chunks, decoded = [], padded = false) {
            if (!chunks.length && !decoded.length) {
                return;
            }
            const longest = Math.max(0, ...chunks.map(([, tokens]) => tokens));
            const parts = chunks.map(([{ id, offset }, tokens]) => (
                { id, offset, tokens, width: padded ? longest : tokens }
            ));
            const start = this.now;
            this.now += passTime(parts, decoded.length);
            this.passes.push({
                start, end: this.now, chunks: parts, decoded: decoded.map(({ id }) => id),
            });
            for (const [request, tokens] of chunks) {
                request.offset += tokens;
                if (request.offset === request.prompt) {
                    request.tokenTimes.push(this.now);
                }
            }
            for (const request of decoded) {
                request.tokenTimes.push(this.now);
            }
        }

        // One token for every slot that is taken. Those who are done leave.
        decode() {
            this.pass([], this.decoding);
            this.leave();
        }

        leave() {
            this.slots = this.slots.map((request) => (request && isDone(request) ? null : request));
        }

        // Into the first free slot, if there is one.
        takeSlot(request) {
            const slot = this.slots.indexOf(null);
            if (slot >= 0) {
                this.slots[slot] = request;
            }
            return slot >= 0;
        }
    }

    function isDone(request) {
        return request.tokenTimes.length === request.answer;
    }

    function chunkThenDecode(engine) {
        const move = () => {
            if (engine.prefilled && engine.takeSlot(engine.prefilled)) {
                engine.prefilled = null;
            }
        };
        if (!engine.prefilled && engine.waiting.length) {
            const request = engine.waiting[0];
            const left = request.prompt - request.offset;
            engine.pass([[request, Math.min(engine.chunkSize, left)]]);
            if (request.offset === request.prompt) {
                engine.waiting.shift();
                engine.prefilled = isDone(request) ? null : request;
            }
        }
        move();
        engine.decode();
        move();
    }

    function wholePromptsFirst(engine) {
        while (engine.waiting.length && engine.slots.includes(null)) {
            const request = engine.waiting.shift();
            engine.pass([[request, request.prompt]]);
            engine.takeSlot(request);
            engine.leave();
        }
        engine.decode();
    }

    // As mlx-lm's BatchGenerator, without the one token that it runs ahead.
    function alternate(engine) {
        engine.decode();
        engine.slots = engine.decoding; // as many as there are
        const room = engine.batchSize - engine.slots.length;
        if (room <= 0) {
            return;
        }
        const prompts = Math.min(MLX_LM_PROMPTS, engine.batchSize) - engine.prefilling.length;
        engine.prefilling.push(...engine.waiting.splice(0, Math.min(room, Math.max(0, prompts))));
        const left = (request) => request.prompt - 1 - request.offset;
        const last = engine.prefilling.filter((request) => left(request) === 0);
        engine.prefilling = engine.prefilling.filter((request) => left(request) > 0);
        engine.pass(last.map((request) => [request, 1]));
        engine.slots.push(...last.filter((request) => !isDone(request)));
        engine.pass(
            engine.prefilling.map((request) => [request, Math.min(MLX_LM_TOKENS, left(request))]),
            [],
            true,
        );
    }

    function tokenBudget(engine) {
        const decoded = engine.decoding.filter((request) => request.tokenTimes.length);
        let budget = engine.chunkSize - decoded.length;
        const chunks = [];
        const give = (request) => {
            const tokens = Math.min(budget, request.prompt - request.offset);
            if (tokens > 0) {
                chunks.push([request, tokens]);
                budget -= tokens;
            }
        };
        engine.prefilling.forEach(give);
        while (budget > 0 && engine.waiting.length && engine.slots.includes(null)) {
            const request = engine.waiting.shift();
            engine.takeSlot(request);
            engine.prefilling.push(request);
            give(request);
        }
        engine.pass(chunks, decoded);
        engine.prefilling = engine.prefilling.filter(({ offset, prompt }) => offset < prompt);
        engine.leave();
    }

    const LIMITS = {
        slots: [1, 8],
        arrival: [0, 60000],
        prompt: [1, 16384],
        answer: [1, 200],
    };

    // What is wrong with the numbers, in a sentence; "" if nothing is.
    function findProblem({ requests, slots }) {
        const numbers = [["The number of decode slots", slots, LIMITS.slots]];
        for (const [id, request] of requests.entries()) {
            for (const field of ["arrival", "prompt", "answer"]) {
                numbers.push([`Request ${name(id)}: the ${field}`, request[field], LIMITS[field]]);
            }
        }
        for (const [what, number, [least, most]] of numbers) {
            if (!Number.isInteger(number) || number < least || number > most) {
                return `${what} must be a whole number from ${least} to ${most}.`;
            }
        }
        return "";
    }

    // requests: objects with arrival (ms), prompt and answer (tokens; the answer's end token is
    // one of them). slots: how many requests can decode at once. chunk: a number of tokens, or
    // null for the whole prompt. policy: a key of POLICIES.
    //
    // Returns steps (arrays of forward passes), passes (all of them), requests (with ttft, gap,
    // gapStart, end; gap is null if the answer is one token), total (from the first arrival to the
    // last token), worst (the request with the largest gap, or null).
    function simulate({ requests, slots, chunk, policy }) {
        const engine = new Engine(requests, slots, chunk ?? Infinity);
        const steps = [];
        while (engine.admit()) {
            const before = engine.passes.length;
            POLICIES[policy].step(engine);
            steps.push(engine.passes.slice(before));
        }
        const results = engine.requests.map(({ id, arrival, tokenTimes }) => {
            let [gap, gapStart] = [null, null];
            for (let i = 1; i < tokenTimes.length; i++) {
                if (gap === null || tokenTimes[i] - tokenTimes[i - 1] > gap) {
                    [gap, gapStart] = [tokenTimes[i] - tokenTimes[i - 1], tokenTimes[i - 1]];
                }
            }
            return {
                id, arrival, firstToken: tokenTimes[0], ttft: tokenTimes[0] - arrival,
                gap, gapStart, end: tokenTimes.at(-1),
            };
        });
        const worst = results.filter(({ gap }) => gap !== null)
            .reduce((most, result) => (most && most.gap >= result.gap ? most : result), null);
        const first = Math.min(...results.map(({ arrival }) => arrival));
        return {
            steps, passes: engine.passes, requests: results, worst, total: engine.now - first,
        };
    }

    function name(id) {
        return String.fromCharCode(65 + id);
    }

    function milliseconds(time) {
        return `${Math.round(time).toLocaleString("en")} ms`;
    }

    // The result in two sentences.
    function summarize({ requests, worst, total }) {
        const slowest = requests.reduce((most, next) => (most.ttft >= next.ttft ? most : next));
        const gap = worst
            ? `Worst decode gap ${milliseconds(worst.gap)} (request ${name(worst.id)})`
            : "No decode gap: every answer is one token";
        return `${gap}; longest TTFT ${milliseconds(slowest.ttft)} (request ` +
            `${name(slowest.id)}). Total time ${milliseconds(total)}.`;
    }

    book.schedule = {
        COST, LIMITS, POLICIES, PRESETS, findProblem, milliseconds, name, passTime, simulate,
        summarize,
    };
})(globalThis.tinyLlmBook ??= {});
