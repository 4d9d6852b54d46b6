"""The strict build: mdBook, with everything that it lets pass in silence turned into a problem.

mdBook 0.5 goes on, with a line in its log at most, when an included file or anchor is missing, a
key under `[output.html]` is unknown, a preprocessor does not apply, a link leads nowhere, or a file
is in no table of contents.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tiny_llm_lab.book.chapter import Problem
from tiny_llm_lab.book.components import SCRIPTS
from tiny_llm_lab.book.preprocessor import MARK

_COMMAND = "python -m tiny_llm_lab.book.preprocessor"

# mdBook itself refuses unknown keys in [book] and [build] only. These are the ones that we use.
_KNOWN_KEYS: dict[str, Any] = {
    "book": None,
    "build": None,
    "preprocessor": {"tiny-llm": {"command": None, "before": None}},
    "output": {
        "html": {
            "default-theme": None,
            "preferred-dark-theme": None,
            "smart-punctuation": None,
            "no-section-label": None,
            "additional-css": None,
            "additional-js": None,
            "input-404": None,
            "search": {"limit-results": None, "teaser-word-count": None, "use-boolean-and": None},
        }
    },
}

_LOG_PROBLEM = re.compile(r"^\s*(?:\[?\d{4}-\S+\s+)?(?:\[?)(WARN|ERROR)\b\]?:?\s*(.*)$")
_PREPROCESSOR_PROBLEM = re.compile(r"^book/src/([^:]+)(?::(\d+))?: (.*)$")


class MdbookMissing(Exception):
    """mdBook is not installed; the message says so, and what to do."""


def run_mdbook(book: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start mdBook with this Python's programs on its path and no settings from outside.

    Args:
        book: the folder of book.toml.
        arguments: mdBook's subcommand and options; the folder is added.

    Raises:
        MdbookMissing: there is no mdBook.
    """
    # MDBOOK_* variables change the configuration, and RUST_LOG could silence the log.
    outside = ("MDBOOK_", "RUST_LOG")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    programs = str(Path(sys.executable).parent)
    env["PATH"] = os.pathsep.join([programs, env.get("PATH", "")])
    mdbook = shutil.which("mdbook", path=env["PATH"])
    if mdbook is None:
        raise MdbookMissing("mdBook is not installed: run `pdm sync -G dev`.")
    subcommand, *options = arguments
    return subprocess.Popen(
        [mdbook, subcommand, str(book), *options], env=env, stderr=subprocess.PIPE, text=True
    )


def build(book: Path, output: Path) -> list[Problem]:
    """Build the book and check what came out.

    Args:
        book: the folder of book.toml.
        output: the folder for the pages; whatever it holds is replaced.

    Returns:
        All problems; empty if the book can be published.

    Raises:
        MdbookMissing: there is no mdBook.
    """
    problems = check_config(book / "book.toml") + check_summary(book / "src")
    if problems:
        return problems
    process = run_mdbook(book, ["build", "--dest-dir", str(output.resolve())])
    log = process.communicate()[1]
    problems = read_log(log)
    if process.returncode != 0 and not problems:
        problems = [Problem("mdbook", 0, f"failed with exit code {process.returncode}")]
    return problems or check_pages(output, chapters_of(book / "src"))


def check_config(path: Path) -> list[Problem]:
    """Check book.toml: every key is known, and our preprocessor is sure to run."""
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [Problem("book/book.toml", 0, "it does not exist")]
    except tomllib.TOMLDecodeError as error:
        return [Problem("book/book.toml", 0, f"it is not valid TOML: {error}")]
    problems = [
        Problem("book/book.toml", 0, f"the key {key} is unknown to mdBook or to this check")
        for key in _unknown_keys(config, _KNOWN_KEYS)
    ]
    settings = config.get("preprocessor", {}).get("tiny-llm", {})
    if settings.get("command") != _COMMAND:
        message = f'[preprocessor.tiny-llm] needs command = "{_COMMAND}"'
        problems.append(Problem("book/book.toml", 0, message))
    if settings.get("before") != ["links"]:
        message = '[preprocessor.tiny-llm] needs before = ["links"], to see missing includes'
        problems.append(Problem("book/book.toml", 0, message))
    if config.get("build", {}).get("create-missing") is not False:
        message = "[build] needs create-missing = false, or mdBook writes missing chapters itself"
        problems.append(Problem("book/book.toml", 0, message))
    return problems


def _unknown_keys(table: dict[str, Any], known: dict[str, Any], prefix: str = "") -> list[str]:
    unknown = []
    for key, value in table.items():
        if key not in known:
            unknown.append(prefix + key)
        elif known[key] is not None and isinstance(value, dict):
            unknown += _unknown_keys(value, known[key], f"{prefix}{key}.")
    return unknown


def chapters_of(source: Path) -> list[str]:
    """The chapters that SUMMARY.md names, in order, relative to the source folder."""
    summary = (source / "SUMMARY.md").read_text(encoding="utf-8")
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", summary)


def check_summary(source: Path) -> list[Problem]:
    """Compare SUMMARY.md with the files that are there."""
    named = chapters_of(source)
    there = {path.relative_to(source).as_posix() for path in source.rglob("*.md")} - {"SUMMARY.md"}
    problems = [
        Problem("book/src/SUMMARY.md", 0, f"the chapter {name} does not exist")
        for name in named
        if name not in there
    ]
    problems += [
        Problem(f"book/src/{name}", 0, "no line of SUMMARY.md leads to it")
        for name in sorted(there - set(named))
    ]
    figures = {path.name for path in source.glob("figures/*.svg")}
    text = "".join((source / name).read_text(encoding="utf-8") for name in there & set(named))
    used = set(re.findall(r"\{\{#(?:figure|component[^|}]*\|)\s*([^\s|}]+)", text))
    # The figure that is named like a component belongs to it, whether or not a chapter has it.
    used |= {f"{component}.svg" for component in SCRIPTS}
    problems += [
        Problem(f"book/src/figures/{name}", 0, "no chapter shows it")
        for name in sorted(figures - used)
    ]
    return problems


def read_log(log: str) -> list[Problem]:
    """The problems in what mdBook and the preprocessor wrote to stderr."""
    ours = []
    theirs = []
    for line in log.splitlines():
        if found := _PREPROCESSOR_PROBLEM.match(line):
            ours.append(Problem(f"book/src/{found[1]}", int(found[2] or 0), found[3]))
        elif found := _LOG_PROBLEM.match(line):
            theirs.append(Problem("mdbook", 0, f"{found[1]}: {found[2]}"))
    # After a problem of ours, mdBook's own lines only say that the preprocessor failed.
    return ours or theirs


class _Page(HTMLParser):
    """What the checks need to know of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.components: set[str] = set()
        self.scripts: list[str] = []
        self.without_alt: list[str] = []
        self.base = ""
        self.text = path.read_text(encoding="utf-8")
        self.visible = ""
        self._silent = 0
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ids, links and resources."""
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids[values["id"]] += 1
        if tag == "base":
            self.base = values.get("href", "")
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "href" in values:
            self.resources.append(values["href"])
        if "src" in values:
            self.resources.append(values["src"])
        if tag == "script" and "src" in values:
            self.scripts.append(values["src"])
        if tag in SCRIPTS:
            self.components.add(tag)
        if tag == "img" and not values.get("alt"):
            self.without_alt.append(values.get("src", ""))
        if tag in ("script", "style", "code", "template"):
            self._silent += 1

    def handle_endtag(self, tag: str) -> None:
        """Leave the elements whose text is not prose."""
        if tag in ("script", "style", "code", "template"):
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        """Collect the prose."""
        if not self._silent:
            self.visible += data


def check_pages(folder: Path, chapters: list[str]) -> list[Problem]:
    """Check the rendered pages: links, anchors, ids, resources, and that nothing was left over.

    Args:
        folder: the built book.
        chapters: the chapters' files, relative to the source folder.
    """
    problems = []
    pages = {path.relative_to(folder).as_posix(): _Page(path) for path in folder.rglob("*.html")}
    for name, page in sorted(pages.items()):
        shown = f"{name} (built)"
        problems += [
            Problem(shown, 0, f'the id "{key}" occurs {count} times')
            for key, count in page.ids.items()
            if count > 1
        ]
        problems += [
            Problem(shown, 0, f"it loads {url} from another host")
            for url in page.resources
            if urlsplit(url).netloc
        ]
        problems += [
            Problem(shown, 0, f"the image {source} has no alternative text")
            for source in page.without_alt
        ]
        problems += [
            Problem(shown, 0, f"it holds a {component}, but book.toml does not load {scripts}")
            for component in sorted(page.components)
            if (scripts := _missing_scripts(component, page.scripts))
        ]
        if leftover := re.search(r"\{\{\s*#.*", page.visible):
            problems.append(Problem(shown, 0, f"{leftover[0]} was not expanded"))
        for link in page.links:
            if message := _check_link(link, name, pages, folder):
                problems.append(Problem(shown, 0, message))
    for chapter in chapters:
        name = str(Path(chapter).with_suffix(".html"))
        if name not in pages:
            problems.append(Problem(f"book/src/{chapter}", 0, "mdBook built no page from it"))
        elif MARK not in pages[name].text:
            message = "the preprocessor did not run on it"
            problems.append(Problem(f"book/src/{chapter}", 0, message))
    for sheet in sorted(folder.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8")
        for url in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", text):
            problems.append(Problem(f"{sheet.name} (built)", 0, f"it loads {url}"))
    return problems


def _missing_scripts(component: str, loaded: list[str]) -> str:
    """The scripts of a component, if a page does not load all of them in their order."""
    # mdBook puts a hash behind the name of a file.
    paths = "".join(f"{path}\n" for path in loaded)
    pattern = r"[\s\S]*".join(
        rf"\bcomponents/{name}(-[0-9a-f]+)?\.js\n" for name in SCRIPTS[component]
    )
    if re.search(pattern, paths):
        return ""
    return ", ".join(f"components/{name}.js" for name in SCRIPTS[component])


def _check_link(link: str, name: str, pages: dict[str, _Page], folder: Path) -> str:
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return ""
    # The page for missing addresses has a <base>, because it is shown at any depth.
    start = Path() if pages[name].base else Path(name).parent
    path = unquote(url.path)
    target = os.path.normpath(start / path).replace(os.sep, "/") if path else name
    if target not in pages:
        return "" if (folder / target).is_file() else f"the link {link} leads to no file"
    if url.fragment and unquote(url.fragment) not in pages[target].ids:
        return f"the link {link} leads to no heading or id"
    return ""
