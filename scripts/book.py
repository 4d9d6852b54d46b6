"""`pdm run book`: build the book and serve it on this machine, rebuilt when a chapter changes."""

import signal
import socket
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.strict import MdbookMissing, build, read_log, run_mdbook
from tiny_llm_lab.cli import fail, run

BOOK = PROJECT_ROOT / "book"
HOST = "127.0.0.1"
LAST_PORT = 65535


def main(
    port: Annotated[int, typer.Option(min=1, max=LAST_PORT, help="The first port to try.")] = 3000,
    build_only: Annotated[
        bool, typer.Option("--build-only", help="Build the pages into book/book and stop.")
    ] = False,
) -> None:
    """Build the book and serve it on this machine, rebuilt when a chapter changes."""
    try:
        if build_only:
            build_pages(BOOK / "book")
        else:
            with tempfile.TemporaryDirectory() as pages:
                raise typer.Exit(serve(Path(pages), free_port(port)))
    except MdbookMissing as error:
        fail(str(error), exit_code=1)


def build_pages(output: Path) -> None:
    """Build the pages into a folder, or fail with what must be mended first."""
    if problems := build(BOOK, output):
        fail("\n".join(map(str, problems)), exit_code=1)
    print(f"The book is built: open {output / 'index.html'}")


def serve(pages: Path, port: int) -> int:
    """Run mdBook's server until it is interrupted; return the exit code."""
    process = run_mdbook(BOOK, ["serve", "-d", str(pages), "-n", HOST, "-p", str(port)])
    assert process.stderr is not None
    # Asked to end politely, stop the server too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for line in process.stderr:
            if "Serving on" in line:
                print(f"The book is at http://{HOST}:{port} (Ctrl-C stops).", flush=True)
            for problem in read_log(line):
                print(problem, flush=True)
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()
    return process.returncode


def free_port(first: int) -> int:
    """The first port from `first` on that nothing listens on."""
    last = min(first + 99, LAST_PORT)
    port = next(filter(is_free, range(first, last + 1)), None)
    if port is None:
        fail(f"No port from {first} to {last} is free: name another with --port.", exit_code=1)
    return port


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    run(main)
