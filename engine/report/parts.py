"""Pieces of a report's page. Captions and ids are foreign text: nothing gets into the page unescaped."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 400  # characters of a caption that are shown
LANGUAGES = {"english": "en", "chinese": "zh-CN"}


def text(value: object) -> str:
    """Escaped; control characters, which a browser may swallow or obey, become a mark."""
    clean = "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" else c for c in str(value)
    )
    return html.escape(clean)


def caption(words: str, language: str, *, tag: str = "p") -> str:
    """A caption, kept from turning the direction of the text around it, in the fonts of its language."""
    shown = words if len(words) <= LONGEST else words[:LONGEST] + "…"
    inner = text(shown) if shown.strip() else '<span class="note">(empty)</span>'
    code = LANGUAGES.get(language, "und")
    return f'<{tag} class="caption" lang="{code}"><bdi>{inner}</bdi></{tag}>'


def frames(shown: Sequence[str] | str) -> str:
    """A strip of pictures; words in grey where there is none."""
    if isinstance(shown, str):
        return f'<div class="frames"><div class="gone all">{text(shown)}</div></div>'
    parts = [
        f'<img src="{uri}" alt="frame {i + 1} of {len(shown)} shown" loading="lazy">'
        if uri
        else '<div class="gone">broken</div>'
        for i, uri in enumerate(shown)
    ]
    return f'<div class="frames">{"".join(parts)}</div>'


def clip(
    video: str, shown: Sequence[str] | str, *, words: str, language: str, aside: str, own: bool = False
) -> str:
    """A video: its id, frames and a caption; `aside` stands beside the id."""
    return (
        f'<div class="clip{" own" if own else ""}"><div class="who"><span class="id">{text(video)}</span>'
        f"<span>{text(aside)}</span></div>{frames(shown)}{caption(words, language)}</div>"
    )


def picture(name: str, light: bytes, dark: bytes, *, alt: str, says: str, across: bool = False) -> str:
    """A plot that follows the page's colours; `across` is one with its caption beside it."""
    sources = [base64.b64encode(data).decode("ascii") for data in (light, dark)]
    kind = ' class="across"' if across else ""
    return (
        f'<figure id="{name}"{kind}><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="data:image/png;base64,{sources[1]}"><img src="data:image/png;base64,{sources[0]}" '
        f'alt="{text(alt)}"></picture><figcaption>{text(says)}</figcaption></figure>'
    )


def table(head: Sequence[str], rows: Iterable[str], *, text_columns: Sequence[int] = (0,)) -> str:
    """`rows` are made by `row`."""
    cells = "".join(
        f'<th{_text_class(i in text_columns and i > 0)} scope="col">{text(name)}</th>'
        for i, name in enumerate(head)
    )
    body = "".join(rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def row(cells: Sequence[str], *, kind: str = "", text_columns: Sequence[int] = ()) -> str:
    """`cells` are HTML."""
    inner = "".join(f"<td{_text_class(i in text_columns)}>{cell}</td>" for i, cell in enumerate(cells))
    return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"


def facts(entries: Mapping[str, str]) -> str:
    """Names and what they are, the latter as HTML."""
    inner = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in entries.items())
    return f'<dl class="facts">{inner}</dl>'


def number(value: Any, digits: int = 1) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def plural(count: int, what: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _text_class(is_text: bool) -> str:
    return ' class="text"' if is_text else ""
