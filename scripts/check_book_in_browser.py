"""`pdm run check-book-in-browser`: every page of the book in a headless Chromium.

Builds the book, serves it on this machine, and opens each page in light and dark, on a desktop and
on a phone. Exit code 0: nothing found; 1: problems, one line each; 3: not verified, because there
is no browser.
"""

import functools
import http.server
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
from tiny_llm_lab.book.strict import MdbookMissing, build
from tiny_llm_lab.cli import fail, run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NOT_VERIFIED = 3

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
            problems = [str(problem) for problem in build(PROJECT_ROOT / "book", Path(folder))]
        except MdbookMissing as error:
            fail(str(error), exit_code=1)
        if not problems:
            browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
            with serve(Path(folder)) as address:
                problems = check_pages(browser, address, Path(folder), Axe())
                for check in (check_search, check_keyboard, check_print):
                    problems += check(browser, address)
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
        found = watch(page, address)
        page.goto(address + name)
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
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
    page.add_init_script("window.print = () => {};")
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


if __name__ == "__main__":
    run(main)
