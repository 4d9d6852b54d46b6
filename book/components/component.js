// What the interactive components of the book share.
"use strict";

(function component(book) {
    let count = 0;

    const SVG = ["svg", "defs", "pattern", "path", "circle", "text"];

    // An element with attributes, event listeners (names that start with "on") and children.
    function make(tag, attributes = {}, ...children) {
        const element = SVG.includes(tag)
            ? document.createElementNS("http://www.w3.org/2000/svg", tag)
            : document.createElement(tag);
        for (const [key, value] of Object.entries(attributes)) {
            if (key.startsWith("on")) {
                element.addEventListener(key.slice(2), value);
            } else {
                element.setAttribute(key, value);
            }
        }
        element.append(...children);
        return element;
    }

    // A custom element whose children are a figure for readers without scripts, and for paper.
    // A subclass has a heading, and build(live), which fills what is shown in the figure's place.
    class Component extends HTMLElement {
        connectedCallback() {
            if (this.idPrefix) {
                return; // moved in the document
            }
            // Before every id, so that two components on a page cannot clash.
            this.idPrefix = `${this.localName}-${++count}-`;
            const title = make(
                "p", { class: "component-title", id: `${this.idPrefix}title` },
                this.constructor.heading,
            );
            const live = make(
                "div", { class: "component-live", role: "group", "aria-labelledby": title.id },
                title,
            );
            this.build(live);
            this.append(live);
            this.classList.add("is-live");
        }

        // A labelled control.
        field(text, control) {
            control.id = `${this.idPrefix}${text.toLowerCase().replaceAll(/\W+/g, "-")}`;
            const label = make("label", { for: control.id }, text);
            return make("div", { class: "component-field" }, label, control);
        }
    }

    Object.assign(book, { Component, make });
})(globalThis.tinyLlmBook ??= {});
