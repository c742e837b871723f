"""The page that all reports share: head, style, tables, figures; one file that opens offline.

The page forbids itself every request (its content security policy), and it runs no script but its
own: their hash stands in the policy, so that a name with markup in it could not run either.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from graphnn_unet._version import __version__

GENERATOR = f"gnnunet_report {__version__}"
PLAIN_TEXT: Any = {"text.parse_math": False}
"""Names of cases and classes are a user's: matplotlib reads what stands between dollars as TeX."""

_HERE = Path(__file__).parent
_DPI = 110


def document(title: str, parts: Sequence[str], *, script: str = "", source: str = "") -> str:
    """A whole page.

    Args:
        title: Its title and first heading, as text.
        parts: HTML, in its order.
        script: JavaScript that runs after that of the tables.
        source: What it was made from, for the foot.
    """
    code = f"{asset('page.js')}\n{script}"
    hashed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; connect-src data: "
        f"blob:; script-src 'sha256-{hashed}' 'strict-dynamic' blob:"
    )
    note = f"Made by {GENERATOR} on {datetime.now():%Y-%m-%d %H:%M}"
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<meta name='generator' content='{GENERATOR}'>\n<link rel='icon' href='data:,'>\n"
        f"<title>{escaped(title)}</title>\n<style>\n{asset('page.css')}</style>\n</head>\n<body>\n"
        f"<h1>{escaped(title)}</h1>\n{body}\n"
        f"<footer>{note}{f' from {escaped(source)}' if source else ''}.</footer>\n"
        f"<script>{code}</script>\n</body>\n</html>\n"
    )


def asset(name: str) -> str:
    """A text file of this folder."""
    return (_HERE / name).read_text(encoding="utf-8")


def escaped(text: object) -> str:
    """Text of anybody, for HTML and its attributes in quotes.

    Example:
        >>> escaped("<b>'it'</b>")
        '&lt;b&gt;&#x27;it&#x27;&lt;/b&gt;'
    """
    return html.escape(str(text), quote=True)


def json_block(name: str, content: object) -> str:
    r"""Data for scripts; nothing in them can end the block or begin another.

    Example:
        >>> print(json_block("facts", {"a": "</script>"}))
        <script type='application/json' id='facts'>{"a": "\u003c/script\u003e"}</script>
    """
    text = json.dumps(content, ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f"<script type='application/json' id='{escaped(name)}'>{text}</script>"


def table(
    rows: Sequence[Sequence[str]],
    *,
    text_columns: Collection[str] = (),
    marked: Collection[int] = (),
) -> str:
    """A table that sorts and, from six rows on, filters; without scripts it is a table.

    Args:
        rows: The head, then the lines, as text.
        text_columns: Heads of columns of sentences: to the left, and they may break.
        marked: Lines that stand out, counted without the head.
    """
    head, *lines = rows
    kinds = [" class='text'" if name in text_columns else "" for name in head]
    parts = [f"<div class='wide{' long' * (len(lines) > 20)}'><table class='data'><thead><tr>"]
    parts += [f"<th{kind}>{escaped(name)}</th>" for name, kind in zip(head, kinds, strict=True)]
    parts.append("</tr></thead><tbody>")
    for number, cells in enumerate(lines):
        parts.append("<tr class='marked'>" if number in marked else "<tr>")
        parts += [
            f"<td{kind}>{escaped(cell)}</td>" for cell, kind in zip(cells, kinds, strict=True)
        ]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def figure_image(figure: Figure, title: str) -> str:
    """A figure of matplotlib inside the page."""
    buffer = io.BytesIO()
    figure.set_dpi(_DPI)
    FigureCanvasAgg(figure).print_png(buffer)
    return png_image(buffer.getvalue(), title)


def png_image(content: bytes, title: str, caption: str = "") -> str:
    """A PNG inside the page; ``title`` is what is read out in its place."""
    data = base64.b64encode(content).decode("ascii")
    foot = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    image = f"<img alt='{escaped(title)}' src='data:image/png;base64,{data}'>"
    return f"<figure class='wide'>{image}{foot}</figure>"


def bullets(sentences: Sequence[str], fine: str) -> str:
    """What looks wrong as a list, or the sentence that nothing does."""
    if not sentences:
        return f"<p class='fine'>{escaped(fine)}</p>"
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f"<ul class='wrong'>{items}</ul>"


def commands(lines: Sequence[str], before: str = "") -> str:
    """Command lines to copy."""
    text = f"<p>{escaped(before)}</p>" if before else ""
    return f"<h2>Commands</h2>{text}<pre>{escaped(chr(10).join(lines))}</pre>"
