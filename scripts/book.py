"""`pdm run book`: build the book and serve it on this machine, rebuilt when a chapter changes."""

import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tiny_llm_lab import PROJECT_ROOT
from tiny_llm_lab.book.strict import build, read_log, run_mdbook

BOOK = PROJECT_ROOT / "book"
HOST = "127.0.0.1"


def main(
    port: Annotated[int, typer.Option(help="The first port to try.")] = 3000,
    build_only: Annotated[
        bool, typer.Option("--build-only", help="Build the pages into book/book and stop.")
    ] = False,
) -> None:
    """Build the book and serve it on this machine, rebuilt when a chapter changes."""
    if build_only:
        output = BOOK / "book"
        problems = build(BOOK, output)
        for problem in problems:
            print(problem)
        if problems:
            raise typer.Exit(1)
        print(f"The book is built: open {output / 'index.html'}")
        return
    with tempfile.TemporaryDirectory() as pages:
        raise typer.Exit(serve(Path(pages), free_port(port)))


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
    for port in range(first, first + 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    print(f"No port from {first} to {first + 99} is free: name another with --port.")
    raise typer.Exit(1)


if __name__ == "__main__":
    # `pdm run book -- --build-only` hands the -- on.
    sys.argv = [argument for argument in sys.argv if argument != "--"]
    try:
        typer.run(main)
    except FileNotFoundError as error:
        sys.exit(str(error))
