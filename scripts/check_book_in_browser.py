"""`pdm run check-book-in-browser`: every page of the book in a headless Chromium.

Builds the book, serves it on this machine, and opens each page in light and dark, on a desktop and
on a phone. The interactive components are checked where a page holds them, and on a page of their
own; their logic is compared with the vectors in `tests/lab/component_vectors`. Exit code 0: nothing
found; 1: problems, one line each; 3: not verified, because there is no browser.
"""

import functools
import http.server
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import track

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.components import ATTRIBUTES
from tiny_llm_lab.book.strict import MdbookMissing, build
from tiny_llm_lab.cli import fail, run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

NOT_VERIFIED = 3

BOOK = PROJECT_ROOT / "book"
VECTORS = PROJECT_ROOT / "tests" / "lab" / "component_vectors"

# A page with every component, so that they are checked whether or not a chapter has them.
SAMPLE = """# Components

{{#component schedule-simulator | schedule-simulator.svg | A schedule.}}

{{#component mask-explorer start=5 size=4 total=12 | mask-explorer.svg | A mask.}}
"""

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
WIDTHS = (1280, 375)
THEMES = ("light", "dark")

# mdBook clips what is too wide for the page, so the document itself never grows: look for elements
# that stick out and stand in no scrolling box of their own.
# The page of the whole book asks for the printer when it is opened, and is laid out for it then.
NO_PRINTING = "window.print = () => {};"

# By the end of the second frame the page's observers have seen what was unfolded.
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

FIND_OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    const boxed = (element) => {
        for (let e = element.parentElement; e && e.tagName !== "MAIN"; e = e.parentElement) {
            if (getComputedStyle(e).overflowX !== "visible") return true;
        }
        return false;
    };
    if (document.documentElement.scrollWidth > width) return "the document";
    for (const element of document.querySelectorAll("main *")) {
        const right = element.getBoundingClientRect().right;
        if (right > width + 1 && !boxed(element)) {
            return `<${element.tagName.toLowerCase()}> ${element.textContent.trim().slice(0, 40)}`;
        }
    }
    return "";
}"""

# A scrolling box is of no use on paper.
FIND_CUT_OFF = """() => Array.from(document.querySelectorAll("main *"))
    .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "auto")
    .map((e) => e.textContent.trim().slice(0, 60))"""


def main() -> None:
    """Open every page of the book in a headless Chromium; exit code 3 if there is none."""
    try:
        from axe_playwright_python.sync_playwright import Axe
        from playwright.sync_api import sync_playwright
    except ImportError:
        fail(
            "Not verified: the browser packages are missing; run pdm sync -G browser.",
            exit_code=NOT_VERIFIED,
        )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        found = filter(None, map(shutil.which, (*BROWSERS, playwright.chromium.executable_path)))
        executable = next(found, None)
        if executable is None:
            fail(
                "Not verified: there is no Chromium; install one (apt-get install chromium) or run "
                "pdm run playwright install chromium.",
                exit_code=NOT_VERIFIED,
            )
        try:
            problems = [str(problem) for problem in build(BOOK, Path(folder))]
        except MdbookMissing as error:
            fail(str(error), exit_code=1)
        if not problems:
            browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
            with serve(Path(folder)) as address:
                problems = check_pages(browser, address, Path(folder), Axe())
                problems += check_components(browser, address, Path(folder))
                for check in (check_search, check_keyboard, check_print):
                    problems += check(browser, address)
            problems += check_logic(browser)
            problems += check_sample(browser, Axe())
            browser.close()
    if problems:
        fail("\n".join([*problems, f"{len(problems)} problems."]), exit_code=1)
    print("No problems in the browser.")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yields the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


def check_pages(browser: "Browser", address: str, folder: Path, axe: Any) -> list[str]:
    """Open every page in every theme and width."""
    # toc.html is shown only where scripts are off, inside the other pages.
    pages = sorted(path.name for path in folder.glob("*.html") if path.name != "toc.html")
    visits = [(page, theme, width) for theme in THEMES for width in WIDTHS for page in pages]
    problems = []
    console = Console(stderr=True)
    for name, theme, width in track(visits, "Opening pages", console=console, transient=True):
        context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
        page = context.new_page()
        page.add_init_script(NO_PRINTING)
        found = watch(page, address)
        page.goto(address + name)
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        page.evaluate(TWO_FRAMES)
        if overflow := page.evaluate(FIND_OVERFLOW):
            found.append(f"wider than the page: {overflow}")
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                node = violation["nodes"][0]
                message = " ".join(node["failureSummary"].split())
                found.append(f"axe {violation['id']}: {node['target'][0]}: {message}")
        problems += [f"{name}, {theme}, {width} px: {problem}" for problem in found]
        context.close()
    return problems


def watch(page: "Page", address: str) -> list[str]:
    """Collect the errors of a page and its requests to other hosts, from now on."""
    found: list[str] = []

    def check_request(request: Any) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.netloc != urlsplit(address).netloc:
            found.append(f"it asks another host for {request.url}")

    def check_response(response: Any) -> None:
        if response.status >= 400:
            found.append(f"{response.url} answers {response.status}")

    def check_console(message: Any) -> None:
        if message.type == "error":
            found.append(f"console: {message.text}")

    page.on("request", check_request)
    page.on("response", check_response)
    page.on("console", check_console)
    page.on("pageerror", lambda error: found.append(f"script error: {error}"))
    return found


def check_search(browser: "Browser", address: str) -> list[str]:
    """Search for a word as a reader does, with the keyboard, and follow the first result."""
    page = browser.new_page()
    found = watch(page, address)
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("softmax")
    result = page.locator("#mdbook-searchresults a").first
    try:
        result.wait_for(timeout=10_000)
        result.click()
        page.locator("main mark").first.wait_for(timeout=10_000)
    except Exception as error:  # Playwright's class of errors exists only where it is installed.
        found.append(f"the word softmax is not found: {str(error).splitlines()[0]}")
    page.close()
    return [f"search: {problem}" for problem in found]


def check_keyboard(browser: "Browser", address: str) -> list[str]:
    """Reach the text with Tab and Enter alone, and scroll a wide box with an arrow key."""
    page = browser.new_page(viewport={"width": 375, "height": 900})
    problems = []
    page.goto(address + "week-1-day-1.html")
    page.keyboard.press("Tab")
    if "skip-link" not in page.evaluate("document.activeElement.className"):
        problems.append("the first stop of Tab is not the link that skips to the text")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    if not page.evaluate("document.activeElement.closest('main') !== null"):
        problems.append("Tab after the skip link does not lead into the text")
    page.locator("main pre > code[tabindex]").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    if not page.evaluate("location.pathname").endswith("/week-1-day-1.html"):
        problems.append("an arrow key in a wide block of code leaves the page")
    elif not page.evaluate("document.activeElement.scrollLeft"):
        problems.append("an arrow key in a wide block of code does not scroll it")
    page.close()
    return [f"keyboard: {problem}" for problem in problems]


def check_print(browser: "Browser", address: str) -> list[str]:
    """Look at the whole book as it is printed by a reader who has a dark screen."""
    page = browser.new_page(viewport={"width": 700, "height": 1000}, color_scheme="dark")
    page.add_init_script(NO_PRINTING)
    page.goto(address + "print.html")
    page.emulate_media(media="print")
    problems = []
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    if background != "rgb(255, 255, 255)":
        problems.append(f"the paper is {background}")
    cut_off = page.evaluate(FIND_CUT_OFF)
    problems += [f"cut off on paper: {text}" for text in cut_off]
    page.close()
    return [f"print: {problem}" for problem in problems]


def check_sample(browser: "Browser", axe: Any) -> list[str]:
    """Build a book of one page with every component, and check that."""
    with tempfile.TemporaryDirectory() as folder:
        book, pages = Path(folder) / "book", Path(folder) / "pages"
        for name in ("theme", "components", "src/fonts"):
            shutil.copytree(BOOK / name, book / name)
        shutil.copy(BOOK / "book.toml", book)
        (book / "src" / "figures").mkdir()
        for component in ATTRIBUTES:
            shutil.copy(BOOK / "src" / "figures" / f"{component}.svg", book / "src" / "figures")
        summary = "# Summary\n\n- [Components](components.md)\n"
        (book / "src" / "SUMMARY.md").write_text(summary, encoding="utf-8")
        (book / "src" / "components.md").write_text(SAMPLE, encoding="utf-8")
        if problems := [str(problem) for problem in build(book, pages)]:
            return problems
        with serve(pages) as address:
            problems = check_pages(browser, address, pages, axe)
            problems += check_components(browser, address, pages)
            problems += check_fallback(browser, address + "components.html")
            problems += check_print(browser, address)
        problems += check_from_file(browser, pages / "components.html")
    return [f"sample of components: {problem}" for problem in problems]


def check_logic(browser: "Browser") -> list[str]:
    """Compare the components' logic with what Python says."""
    page = browser.new_page()
    for name in ("schedule", "mask"):
        page.add_script_tag(path=BOOK / "components" / f"{name}.js")
    problems = []
    schedule, masks = (
        json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("schedule", "mask")
    )
    if page.evaluate("tinyLlmBook.schedule.COST") != schedule["cost"]:
        problems.append("schedule.js: COST differs from the vectors' cost")
    for number, case in enumerate(schedule["cases"]):
        result = page.evaluate("(setup) => tinyLlmBook.schedule.simulate(setup)", case)
        steps = [
            [
                {
                    "chunks": [[chunk["id"], chunk["tokens"]] for chunk in entry["chunks"]],
                    "decoded": entry["decoded"],
                }
                for entry in step
            ]
            for step in result["steps"]
        ]
        same_end = abs(result["passes"][-1]["end"] - case["end"]) < 1e-6
        if steps != case["steps"] or not same_end:
            problems.append(f"schedule.js: case {number}, policy {case['policy']}, differs")
    for case in masks:
        rows = page.evaluate(
            "({ start, size, total }) => tinyLlmBook.mask.chunkedMask(start, size, total)", case
        )
        if ["".join("01"[allowed] for allowed in row) for row in rows] != case["rows"]:
            problems.append(f"mask.js: {case['start']}, {case['size']}, {case['total']} differs")
    for key, table in (("preset", "PRESETS"), ("policy", "POLICIES")):
        there = page.evaluate(f"Object.keys(tinyLlmBook.schedule.{table}).join('|')")
        if there != ATTRIBUTES["schedule-simulator"][key]:
            problems.append(f"the directive does not know the {key}s {there}")
    page.close()
    return [f"logic: {problem}" for problem in problems]


def check_components(browser: "Browser", address: str, folder: Path) -> list[str]:
    """Operate the components of every page with the keyboard alone."""
    problems = []
    for path in sorted(folder.glob("*.html")):
        text = path.read_text(encoding="utf-8")
        # These two repeat what is on other pages.
        if path.name in ("index.html", "print.html") or not re.search(
            f"<({'|'.join(ATTRIBUTES)})", text
        ):
            continue
        page = browser.new_page(viewport={"width": 375, "height": 900}, reduced_motion="reduce")
        found = watch(page, address)
        page.goto(address + path.name)
        for name, operate in (
            ("schedule-simulator", operate_schedule_simulator),
            ("mask-explorer", operate_mask_explorer),
        ):
            for number, component in enumerate(page.locator(name).all()):
                if not component.evaluate("(e) => e.matches(':defined.is-live')"):
                    found.append(f"{name} {number} is not defined")
                    continue
                messages = operate(page, component) + check_tab_stops(page, component)
                found += [f"{name} {number}: {message}" for message in messages]
        # mdBook turns the page at an arrow key that gets as far as the document.
        page.evaluate(
            "document.addEventListener('keydown', (event) => { window.reached = event.key; })"
        )
        for control in page.locator(".component-live tbody button:visible").all():
            control.press("ArrowRight")
        if key := page.evaluate("window.reached"):
            found.append(f"{key} in a component turns the page")
        problems += [f"{path.name}: {problem}" for problem in found]
        page.close()
    return problems


def check_tab_stops(page: "Page", component: "Locator") -> list[str]:
    """Tab reaches every control of a component, and leaves it again."""
    # Of the rows of a mask one is a stop; a box that can be scrolled is one.
    count = component.evaluate("""(element) => {
        const controls = "button, input, select, summary, [tabindex='0']";
        window.stops = [...element.querySelectorAll(controls)].filter(
            (e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility());
        window.stops[0].focus();
        return window.stops.length;
    }""")
    for index in range(count):
        if not page.evaluate(f"document.activeElement === window.stops[{index}]"):
            return [f"Tab does not reach control {index}"]
        page.keyboard.press("Tab")
    if component.evaluate("(element) => element.contains(document.activeElement)"):
        return ["Tab does not leave it"]
    return []


def operate_schedule_simulator(page: "Page", simulator: "Locator") -> list[str]:
    """Change everything that can be changed; each time the summary says something new."""
    problems = []
    status = simulator.locator("[role=status]")
    first, second = simulator.get_by_role("group", name="Examples").get_by_role("button").all()[:2]
    policy, chunk = simulator.locator("select").all()
    slots, summary = simulator.get_by_label("Decode slots"), simulator.locator("summary").first

    first.press("Enter")
    for what, control, key in (
        ("another example", second, "Space"),
        ("another chunk size", chunk, "ArrowUp"),
        ("another policy", policy, "ArrowDown"),
        ("too few slots", slots, "Backspace"),
        ("one slot", slots, "1"),
    ):
        before = status.inner_text()
        control.press(key)
        if status.inner_text() == before:
            problems.append(f"{what} changes nothing")
    if not simulator.locator("details").first.evaluate("(details) => details.open"):
        summary.press("Enter")
    requests, results = simulator.locator(".requests tbody tr"), simulator.locator("tbody").first
    for button, change in (("Remove request B", -1), ("Add a request", 1)):
        before = requests.count()
        simulator.get_by_role("button", name=button).press("Enter")
        if not requests.count() == results.locator("tr").count() == before + change:
            problems.append(f'the button "{button}" does not change both tables')
    if not simulator.locator(".schedule-timeline svg").get_attribute("aria-label"):
        problems.append("the timeline has no text for screen readers")
    return problems


def operate_mask_explorer(page: "Page", explorer: "Locator") -> list[str]:
    """Go through the rows, and enter numbers that make no mask."""
    problems = []
    status = explorer.locator("[role=status]")
    rows = explorer.locator("tbody tr").count()
    for key, row in (("End", rows - 1), ("ArrowDown", rows - 1), ("Home", 0), ("ArrowDown", 1)):
        explorer.locator("tbody button[tabindex='0']").press(key)
        expected = f"Row {min(row, rows - 1)} "
        focused = page.evaluate("document.activeElement.getAttribute('aria-label')") or ""
        texts = (status.inner_text(), focused.replace(",", " "))
        if not all(text.startswith(expected) for text in texts):
            problems.append(f"{key} does not lead to {expected}")
    size = explorer.get_by_label("Chunk size")
    size.fill("25")
    if "whole number" not in status.inner_text() or explorer.locator("table").is_visible():
        problems.append("a chunk of 25 is not refused")
    size.fill("1")
    if not status.inner_text().startswith("Row 0 "):
        problems.append("a chunk of 1 after that is not explained")
    return problems


def check_fallback(browser: "Browser", address: str) -> list[str]:
    """Without scripts and on paper the figures are there, and nothing else is."""
    problems = []
    for what, scripts in (("without scripts", False), ("on paper", True)):
        context = browser.new_context(java_script_enabled=scripts)
        page = context.new_page()
        page.goto(address)
        if scripts:
            page.emulate_media(media="print")
        for name in ATTRIBUTES:
            component = page.locator(name)
            figure, live = component.locator("> figure"), component.locator("> .component-live")
            if not figure.is_visible() or live.is_visible():
                problems.append(f"{what} the figure of {name} is not what is seen")
        context.close()
    return problems


def check_from_file(browser: "Browser", path: Path) -> list[str]:
    """The components also work where the book is opened as a file."""
    page = browser.new_page()
    page.goto(path.as_uri())
    problems = [
        f"opened as a file, {name} does not work"
        for name in ATTRIBUTES
        if not page.locator(f"{name}.is-live [role=status]").is_visible()
    ]
    page.close()
    return problems


if __name__ == "__main__":
    run(main)
