// <mask-explorer start="5" size="4" total="12">: the mask of a prefill chunk, row by row in words.
"use strict";

(function maskExplorer({ Component, make, mask }) {
    const DEFAULTS = { start: 5, size: 4, total: 12 };
    const LABELS = { start: "Chunk start", size: "Chunk size", total: "Total length" };

    class MaskExplorer extends Component {
        static heading = "Mask explorer";

        build(live) {
            this.inputs = {};
            const fields = make("div", { class: "component-fields" });
            for (const [key, label] of Object.entries(LABELS)) {
                this.inputs[key] = make("input", {
                    type: "number", min: key === "start" ? 0 : 1, max: mask.LARGEST, step: 1,
                    value: this.getAttribute(key) ?? DEFAULTS[key],
                    oninput: () => this.show(),
                });
                fields.append(this.field(label, this.inputs[key]));
            }
            this.table = make("div", { class: "component-scroll" });
            this.status = make("p", { class: "component-status", role: "status" });
            const help = make(
                "p", { class: "component-help" },
                "A row for each token of the chunk, a column for each key: 0 where the token may " +
                "look, −∞ elsewhere. Point at a row, or move between the rows with Up and Down.",
            );
            live.append(fields, help, this.table, this.status);
            this.row = 0;
            this.show();
        }

        show() {
            const numbers = Object.values(this.inputs).map(({ valueAsNumber }) => valueAsNumber);
            this.problem = mask.findProblem(...numbers);
            for (const input of Object.values(this.inputs)) {
                input.setAttribute("aria-invalid", String(this.problem !== ""));
            }
            this.table.hidden = this.problem !== "";
            if (this.problem) {
                this.status.textContent = this.problem;
                return;
            }
            [this.start, this.size, this.total] = numbers;
            this.draw();
            this.select(Math.min(this.row, this.size - 1));
        }

        draw() {
            const { start, size, total } = this;
            const groups = [
                ["cached", start], ["chunk", size], ["not filled", total - start - size],
            ].filter(([, columns]) => columns > 0);
            const zone = (column) => (
                [start, start + size].includes(column) ? "zone-start" : ""
            );
            this.rows = mask.chunkedMask(start, size, total).map((allowed, row) => {
                const button = make("button", {
                    type: "button", tabindex: -1,
                    "aria-label": `Row ${row}, position ${start + row}`,
                    onfocus: () => this.select(row),
                    onclick: () => this.select(row),
                    onkeydown: (event) => this.move(event, row),
                }, String(row));
                return make(
                    "tr", { onpointerenter: () => this.select(row) },
                    make("th", { scope: "row" }, button),
                    ...allowed.map((open, column) => make(
                        "td", { class: `${open ? "open" : "closed"} ${zone(column)}` },
                        open ? "0" : "−∞",
                    )),
                );
            });
            this.table.replaceChildren(make(
                "table", { class: "mask-table" },
                make("caption", {}, `Mask, ${size} × ${total}`),
                make("thead", {},
                    make("tr", {}, make("td", {}), ...groups.map(([text, columns]) => make(
                        "th", {
                            scope: "colgroup", colspan: columns,
                            class: text === "cached" ? "" : "zone-start",
                        }, text,
                    ))),
                    make("tr", {}, make("th", { scope: "col" }, "row"),
                        ...Array.from({ length: total }, (_, column) => make(
                            "th", { scope: "col", class: zone(column) }, String(column),
                        ))),
                ),
                make("tbody", {}, ...this.rows),
            ));
        }

        select(row) {
            this.row = row;
            for (const [index, element] of this.rows.entries()) {
                const chosen = index === row;
                element.classList.toggle("chosen", chosen);
                const button = element.querySelector("button");
                button.tabIndex = chosen ? 0 : -1;
                button.setAttribute("aria-pressed", String(chosen));
            }
            this.status.textContent = mask.explainRow(row, this.start, this.size, this.total);
        }

        move(event, row) {
            const target = {
                ArrowUp: row - 1, ArrowDown: row + 1, Home: 0, End: this.size - 1,
            }[event.key];
            if (target !== undefined) {
                event.preventDefault();
                this.rows[target]?.querySelector("button").focus();
            }
        }
    }

    customElements.define("mask-explorer", MaskExplorer);
})(globalThis.tinyLlmBook);
