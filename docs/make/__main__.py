"""Write all that is generated, or, with `--check`, say what is out of date.

python -m docs.make [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from docs.make.pages import FOLDER, generated


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare; 1 where a page was to be compared and is out of date."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where something would change")
    check = parser.parse_args(arguments).check
    changed = [name for name, text in generated().items() if text != _now(name)]
    for name in changed:
        if check:
            print(f"docs/{name} is out of date; run python -m docs.make", file=sys.stderr)
        else:
            (FOLDER / name).write_text(generated()[name], encoding="utf-8")
            print(f"docs/{name}")
    return int(check and bool(changed))


def _now(name: str) -> str | None:
    path = FOLDER / name
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
