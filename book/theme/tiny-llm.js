// What mdBook leaves out for readers without a mouse, and a list of themes with two entries.
"use strict";

(function themes() {
    for (const name of ["rust", "navy", "ayu"]) {
        document.getElementById(`mdbook-theme-${name}`)?.parentElement.remove();
    }
    const dark = document.getElementById("mdbook-theme-coal");
    if (dark) {
        dark.textContent = "Dark";
    }
})();

(function skipLink() {
    const main = document.querySelector("main");
    if (!main) {
        return;
    }
    main.id ||= "chapter-text";
    main.tabIndex = -1;
    const link = document.createElement("a");
    link.className = "skip-link";
    link.href = `#${main.id}`;
    link.textContent = "Skip to the text";
    document.body.prepend(link);
})();

// mdBook's button for the table of contents is a label, which the keyboard does not reach.
(function contentsButton() {
    const button = document.getElementById("mdbook-sidebar-toggle");
    if (!button) {
        return;
    }
    button.tabIndex = 0;
    button.setAttribute("role", "button");
    button.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            button.click();
        }
    });
})();

// A box that is wider than the page can be reached with Tab and scrolled with the arrow keys,
// which mdBook would otherwise take for "next chapter".
(function scrollableBoxes() {
    const observer = new ResizeObserver((entries) => {
        for (const { target } of entries) {
            if (target.scrollWidth > target.clientWidth) {
                target.tabIndex = 0;
            } else {
                target.removeAttribute("tabindex");
            }
        }
    });
    for (const box of document.querySelectorAll(
        "pre > code, .table-wrapper, .formula, .component-scroll",
    )) {
        observer.observe(box);
        box.addEventListener("keydown", (event) => {
            if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
                event.stopPropagation();
            }
        });
    }
})();

// Paper cannot be unfolded.
window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details:not([open])")) {
        folded.open = true;
        window.addEventListener("afterprint", () => { folded.open = false; }, { once: true });
    }
});
