"""Text files as people's programs save them: UTF-8 with or without byte order mark, or UTF-16."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file, with plain line ends.

    Raises:
        OSError: It cannot be opened.
        UnicodeDecodeError: It is neither UTF-8 nor UTF-16.
    """
    content = path.read_bytes()
    kind = next((kind for mark, kind in _MARKS if content.startswith(mark)), None)
    if kind is None:  # some programs leave the mark of UTF-16 out; no text holds zero bytes
        zeros = [content[:64:2].count(0), content[1:64:2].count(0)]
        kind = "utf-8" if not any(zeros) else "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return content.decode(kind).replace("\r\n", "\n").replace("\r", "\n")
