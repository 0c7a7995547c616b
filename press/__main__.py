"""``python -m press build | notebooks [--check] [CHAPTER ...] | check [--list] [ID ...] | stamp``"""

import argparse
import os
import sys
from pathlib import Path

from press import BookError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m press", description="Print the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="execute the chapters and build the website")
    notebooks = commands.add_parser("notebooks", help="run the chapters and store their reference outputs")
    notebooks.add_argument("--check", action="store_true", help="run nothing; fail when a notebook is stale")
    notebooks.add_argument("chapters", nargs="*", type=Path, help="book/NAME.md (default: all)")
    check_ = commands.add_parser("check", help="run the checks of single claims and print what they saw")
    check_.add_argument("--list", action="store_true", help="run nothing; print the id and title of every claim")
    check_.add_argument("ids", nargs="*", help="a claim, or one check by the anchor of its link (check-...)")
    commands.add_parser("stamp", help="write the repository's URL into README.md and CITATION.cff")
    chosen = parser.parse_args(arguments)
    try:
        if os.environ.get("BOOK_SIZE", "fast") not in ("fast", "paper"):
            raise BookError(f"BOOK_SIZE must be 'fast' or 'paper', got {os.environ['BOOK_SIZE']!r}")
        if chosen.command == "build":
            from press.build import build

            build()
        elif chosen.command == "notebooks":
            from press.notebooks import check, write

            (check if chosen.check else write)(chosen.chapters)
        elif chosen.command == "check":
            from press.check import check, listing

            if chosen.list or not chosen.ids:
                listing()
            elif not check(chosen.ids):
                return 1
        else:
            from press.repository import stamp

            stamp()
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f"error: the package {error.name!r} is missing; `make book` installs what the book needs", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing unfinished was kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
