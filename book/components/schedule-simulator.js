// <schedule-simulator preset="frozen" policy="chunk" chunk="128">: requests under a scheduler.
"use strict";

(function scheduleSimulator({ Component, make, schedule }) {
    const { COST, LIMITS, POLICIES, PRESETS, milliseconds, name } = schedule;
    const CHUNKS = [32, 64, 128, 256, 512, 1024, 2048];
    const MOST_REQUESTS = 8;
    const FIELDS = {
        arrival: "Arrival (ms)", prompt: "Prompt (tokens)", answer: "Answer (tokens)",
    };

    // The drawing, in pixels.
    const ROW = 30;
    const LEFT = 22;
    const AXIS = 26;
    const HEIGHTS = { chunk: 20, decode: 10 };

    class ScheduleSimulator extends Component {
        static heading = "Schedule simulator";

        build(live) {
            const update = () => this.update();
            this.policy = make("select", { onchange: update }, ...Object.entries(POLICIES).map(
                ([value, { label }]) => make("option", { value }, label),
            ));
            this.policy.value = this.getAttribute("policy") ?? "chunk";
            this.chunk = make("select", { onchange: update },
                ...CHUNKS.map((size) => make("option", { value: size }, `${size} tokens`)),
                make("option", { value: "whole" }, "whole prompt"),
            );
            this.chunk.value = this.getAttribute("chunk") ?? "128";
            this.slots = make("input", {
                type: "number", min: LIMITS.slots[0], max: LIMITS.slots[1], step: 1,
                oninput: update,
            });
            const chunkField = this.field("Chunk size", this.chunk);
            this.chunkLabel = chunkField.querySelector("label");
            this.about = make("p", { class: "component-help" });
            this.timeline = make("div", { class: "schedule-timeline" });
            this.status = make("p", { class: "component-status", role: "status" });
            this.results = make("tbody", {});
            this.requestRows = make("tbody", {});
            this.add = make(
                "button", { type: "button", onclick: () => this.addRequest() }, "Add a request",
            );
            live.append(
                make("div", { class: "component-buttons", role: "group", "aria-label": "Examples" },
                    ...Object.entries(PRESETS).map(([key, { label }]) => make(
                        "button", { type: "button", onclick: () => this.load(key) }, label,
                    ))),
                make("div", { class: "component-fields" },
                    this.field("Policy", this.policy),
                    chunkField,
                    this.field("Decode slots", this.slots),
                ),
                this.about,
                this.legend(),
                this.timeline,
                this.status,
                this.resultTable(),
                this.requestTable(),
                costNote(),
            );
            this.load(this.getAttribute("preset") ?? "frozen");
            let width = 0;
            new ResizeObserver(([{ contentRect }]) => {
                if (contentRect.width !== width) {
                    width = contentRect.width;
                    this.draw(width);
                }
            }).observe(this.timeline);
        }

        load(preset) {
            this.slots.value = PRESETS[preset].slots;
            this.requestRows.replaceChildren();
            for (const request of PRESETS[preset].requests) {
                this.addRow(request);
            }
            this.update();
        }

        addRequest() {
            this.addRow({ arrival: 0, prompt: 64, answer: 16 });
            this.update();
        }

        addRow(request) {
            const row = make("tr", {}, make("th", { scope: "row" }));
            for (const field of Object.keys(FIELDS)) {
                const [least, most] = LIMITS[field];
                row.append(make("td", {}, make("input", {
                    type: "number", min: least, max: most, step: 1, value: request[field],
                    "data-field": field, oninput: () => this.update(),
                })));
            }
            const remove = make(
                "button", { type: "button", onclick: () => this.remove(row) }, "×",
            );
            row.append(make("td", {}, remove));
            this.requestRows.append(row);
        }

        remove(row) {
            const next = row.nextElementSibling ?? row.previousElementSibling;
            row.remove();
            next.querySelector("button").focus();
            this.update();
        }

        // Names and limits depend on the rows around.
        nameRows() {
            const rows = [...this.requestRows.rows];
            for (const [id, row] of rows.entries()) {
                row.cells[0].textContent = name(id);
                for (const input of row.querySelectorAll("input")) {
                    const label = FIELDS[input.dataset.field];
                    input.setAttribute("aria-label", `${label} of request ${name(id)}`);
                }
                const remove = row.querySelector("button");
                remove.setAttribute("aria-label", `Remove request ${name(id)}`);
                remove.disabled = rows.length === 1;
            }
            this.add.disabled = rows.length >= MOST_REQUESTS;
        }

        update() {
            this.nameRows();
            const policy = POLICIES[this.policy.value];
            this.about.textContent = policy.about;
            this.chunk.disabled = policy.chunk === null;
            this.chunkLabel.textContent = policy.chunk ?? "Chunk size";
            this.chunk.lastElementChild.textContent =
                this.policy.value === "budget" ? "no limit" : "whole prompt";
            const requests = [...this.requestRows.rows].map((row) => Object.fromEntries(
                [...row.querySelectorAll("input")].map(
                    (input) => [input.dataset.field, input.valueAsNumber],
                ),
            ));
            const setup = {
                requests,
                slots: this.slots.valueAsNumber,
                policy: this.policy.value,
                chunk: this.chunk.value === "whole" ? null : Number(this.chunk.value),
            };
            const problem = schedule.findProblem(setup);
            this.classList.toggle("is-stale", problem !== "");
            if (problem) {
                this.status.textContent = `${problem} Until then the old result stays.`;
                return;
            }
            this.result = schedule.simulate(setup);
            this.status.textContent = schedule.summarize(this.result);
            this.showResults();
            this.draw(this.timeline.clientWidth);
        }

        showResults() {
            this.results.replaceChildren(...this.result.requests.map((request) => make(
                "tr", {},
                make("th", { scope: "row" }, name(request.id)),
                make("td", {}, milliseconds(request.ttft)),
                make("td", {}, request.gap === null ? "one token" : milliseconds(request.gap)),
                make("td", {}, milliseconds(request.end)),
            )));
        }

        resultTable() {
            return make("div", { class: "component-scroll" }, make("table", {},
                make("caption", {}, "What each request sees"),
                make("thead", {}, make("tr", {}, ...[
                    "Request", "TTFT", "Worst decode gap", "Ends at",
                ].map((text) => make("th", { scope: "col" }, text)))),
                this.results,
            ));
        }

        requestTable() {
            return make("details", {},
                make("summary", {}, "Change the requests"),
                make("div", { class: "component-scroll" }, make("table", { class: "requests" },
                    make("caption", {}, "The end token is one of an answer's tokens"),
                    make("thead", {}, make("tr", {},
                        ...["Request", ...Object.values(FIELDS)].map(
                            (text) => make("th", { scope: "col" }, text),
                        ),
                        make("td", {}))),
                    this.requestRows,
                )),
                this.add,
            );
        }

        legend() {
            const sample = (text, ...shapes) => make("li", {}, make(
                "svg", { viewBox: "0 0 26 20", width: 26, height: 20, "aria-hidden": "true" },
                ...shapes,
            ), text);
            const path = (text, kind, d) => sample(text, make("path", { class: kind, d }));
            return make("ul", { class: "schedule-legend" },
                sample("prefill chunk", this.hatch(), make("path", {
                    class: "chunk", d: "M2 0h22v20h-22z", fill: `url(#${this.idPrefix}hatch)`,
                })),
                path("decode step", "decode", "M5 5h6v10h-6zM14 5h6v10h-6z"),
                path("waiting for the first token", "wait", "M1 10h24"),
                sample("first token", make("circle", { class: "first", cx: 13, cy: 10, r: 4.5 })),
                path("worst decode gap", "worst", "M3 4v12M3 10h20M23 4v12"),
            );
        }

        hatch() {
            return make("defs", {}, make(
                "pattern",
                {
                    id: `${this.idPrefix}hatch`, width: 5, height: 5,
                    patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
                },
                make("path", { class: "ground", d: "M0 0h5v5h-5z" }),
                make("path", { class: "hatch", d: "M0 0v5" }),
            ));
        }

        draw(width) {
            if (!this.result || width <= LEFT) {
                return;
            }
            const { passes, requests, worst } = this.result;
            const end = Math.max(...requests.map((request) => request.end));
            const scale = (width - LEFT - 8) / end;
            const x = (time) => +(LEFT + time * scale).toFixed(2);
            const height = ROW * requests.length + AXIS;
            const svg = make("svg", {
                width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
                "aria-label": "Timeline of the requests. The table below has its numbers.",
            });
            const middle = (id) => ROW * id + ROW / 2;
            for (const time of ticks(end, (width - LEFT) / 70)) {
                const label = make("text", {
                    x: x(time), y: height - 4,
                    "text-anchor": time === 0 ? "start" : x(time) > width - 30 ? "end" : "middle",
                }, time === 0 ? "0 ms" : time.toLocaleString("en"));
                svg.append(
                    make("path", { class: "tick", d: `M${x(time)} 0V${height - AXIS + 6}` }), label,
                );
            }
            for (const request of requests) {
                const y = middle(request.id);
                const parts = { chunk: "", decode: "" };
                for (const pass of passes) {
                    const kind = pass.chunks.some(({ id }) => id === request.id) ? "chunk"
                        : pass.decoded.includes(request.id) ? "decode" : null;
                    if (kind) {
                        // A gap between neighbours, where there is room for one.
                        const wide = (pass.end - pass.start) * scale;
                        const bar = Math.max(wide - (wide > 3 ? 1 : 0), 0.6).toFixed(2);
                        const tall = HEIGHTS[kind];
                        parts[kind] += `M${x(pass.start)} ${y - tall / 2}h${bar}v${tall}h-${bar}z`;
                    }
                }
                svg.append(
                    make("text", { x: 4, y: y + 5, class: "name" }, name(request.id)),
                    make("path", {
                        class: "wait", d: `M${x(request.arrival)} ${y}H${x(request.firstToken)}`,
                    }),
                    make("path", {
                        class: "alive", d: `M${x(request.firstToken)} ${y}H${x(request.end)}`,
                    }),
                    make("path", {
                        class: "arrival", d: `M${x(request.arrival)} ${y - 11}v22`,
                    }),
                    make("path", {
                        class: "chunk", d: parts.chunk, fill: `url(#${this.idPrefix}hatch)`,
                    }),
                    make("path", { class: "decode", d: parts.decode }),
                    make("circle", { class: "first", cx: x(request.firstToken), cy: y, r: 4.5 }),
                );
            }
            if (worst) {
                const y = middle(worst.id);
                const [from, to] = [x(worst.gapStart), x(worst.gapStart + worst.gap)];
                svg.append(make("path", {
                    class: "worst",
                    d: `M${from} ${y - 12}v24M${from} ${y}H${to}M${to} ${y - 12}v24`,
                }));
            }
            this.timeline.replaceChildren(svg);
        }
    }

    // Round times from 0 to end, about so many.
    function ticks(end, count) {
        const rough = end / Math.max(1, count);
        const power = 10 ** Math.floor(Math.log10(rough));
        const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
        return Array.from({ length: Math.floor(end / step) + 1 }, (_, index) => index * step);
    }

    function costNote() {
        const formula = make("code", {}, "t = c + b x + a (2 L x + x²) + g L + d D");
        return make("details", {}, make("summary", {}, "Where the times come from"), make(
            "p", {},
            "From a model with round numbers, not from a measurement. A forward pass takes ",
            formula, " for a chunk of x tokens behind L cached ones and D decoding requests; the " +
            "terms in x and L are summed over the chunks of a pass, and padding costs as much " +
            `as tokens do. Here c = ${COST.c} ms per pass, b = ${COST.b} ms per token, ` +
            `a = ${COST.a.toFixed(6)} ms for attention among tokens, g = ${COST.g} ms per ` +
            `cached token that a chunk reads, d = ${COST.d} ms per decoding request.`,
        ));
    }

    customElements.define("schedule-simulator", ScheduleSimulator);
})(globalThis.tinyLlmBook);
