"""What all reports are made of: one file that needs no network, in sections, with tables. Texts are escaped here."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files


def page(title: str, body: str, script: str = "") -> str:
    """A file with its style; `body` is HTML. Of code it may run `script` alone, a file of `fedsim.report.page`."""
    style = files("fedsim.report").joinpath("report.css").read_text(encoding="utf-8")
    code = files("fedsim.report.page").joinpath(script).read_text(encoding="utf-8") if script else ""
    allowed = f" script-src 'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'" if code else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; style-src 'unsafe-inline';{allowed}\">"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body><main>\n{body}\n</main>"
        f"{f'<script>{code}</script>' if code else ''}</body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A part of a page; its content is HTML."""
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(text: str, kind: str = "") -> str:
    """A cell of a table."""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def folded(summary: str, content: str) -> str:
    """A part that opens under its summary; its content is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
