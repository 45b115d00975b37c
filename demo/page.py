"""The page: a search box, an upload, settings and results, made with gradio and mounted beside the API.

Events of a gradio page are an open endpoint, so that all that they bring is checked here, by the limits of
`search/query.py`.
"""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from demo.cards import EMPTY_INDEX, NOTHING_YET, error_html, results_html
from demo.closed_files import close_files, uploaded
from search import QueryError, Retriever, SearchResults, VideoIndex
from search.clips import ClipError
from search.query import MAX_FRAME_WEIGHT, MAX_QUERY_CHARACTERS

MAX_SHOWN = 100  # cards of one answer
SHOWN = 12
_HERE = Path(__file__).resolve().parent
_LANGUAGES = {"english": "English", "chinese": "Chinese"}
_PLACEHOLDERS = {
    "english": "What should the video show?",
    "chinese": "想找什么样的视频?",
}
EXAMPLES = {
    "english": ("a man is singing on a stage", "a dog runs on the grass", "someone is cooking"),
    "chinese": ("一个男人在台上唱歌", "一只狗在草地上奔跑", "有人在做饭"),
}
_QUEUED = 32  # events that may wait
_AT_ONCE = 2  # events at work
# Of the results: a click on "similar" becomes an event with the id of the video.
_ON_LOAD = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-similar]");
  if (button) trigger("select", { id: button.dataset.similar });
});"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageText:
    """What the page says of its model: queries to try (none: those of the language) and a remark."""

    examples: Sequence[str] = ()
    remark: str = ""


def mount_page(
    app: FastAPI, index: VideoIndex, retriever: Retriever, text: PageText | None = None, *, max_file_size: int
) -> FastAPI:
    """`app` with the page at "/". `max_file_size`: bytes of an upload."""
    blocks = make_page(index, retriever, text or PageText())
    # Not the other way round: a route that is added after "/" is mounted would never be reached.
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=max_file_size,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=_theme(),
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
    )
    close_files(blocks)
    return mounted


def make_page(index: VideoIndex, retriever: Retriever, text: PageText) -> gr.Blocks:
    """The page as gradio blocks."""
    language = retriever.config.language
    answers = Answers(index, retriever)
    with gr.Blocks(title="Video search", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(_intro(len(index), language, text.remark))
        with gr.Row(elem_classes="ask"):
            query = gr.Textbox(
                placeholder=_PLACEHOLDERS[language],
                show_label=False,
                container=False,
                autofocus=True,
                max_length=MAX_QUERY_CHARACTERS,
                scale=5,
                min_width=200,
                elem_id="query",
            )
            go = gr.Button("Search", variant="primary", scale=1, min_width=90, elem_id="go")
        with gr.Row(elem_classes="examples"):
            examples = [gr.Button(words, size="sm") for words in text.examples or EXAMPLES[language]]
        exclude = gr.Textbox(
            placeholder="but not: what the video should not show",
            show_label=False,
            container=False,
            max_length=MAX_QUERY_CHARACTERS,
            elem_id="exclude",
        )
        with gr.Row(elem_classes="more"):
            with gr.Accordion("Picture or clip", open=False, elem_id="more-files"):
                upload = gr.File(
                    label="To search by, alone or with words",
                    file_types=["image", "video"],
                    type="filepath",
                    height=140,
                    elem_id="upload",
                )
            with gr.Accordion("Settings", open=False, elem_id="more-settings"):
                top = gr.Slider(1, MAX_SHOWN, value=SHOWN, step=1, label="Videos to show", elem_id="top")
                frame_weight = gr.Number(
                    retriever.frame_weight,
                    label="Frame weight",
                    info="how much the best frames count beside the whole video",
                    minimum=0,
                    maximum=MAX_FRAME_WEIGHT,
                    step=0.1,
                )
                top_frames = gr.Slider(
                    1,
                    retriever.frames,
                    value=min(retriever.config.top_frames, retriever.frames),
                    step=1,
                    label="Top frames",
                    info="how many frames of a video count",
                )
        results = gr.HTML(
            EMPTY_INDEX if not len(index) else NOTHING_YET,
            js_on_load=_ON_LOAD,
            elem_id="results",
            apply_default_css=False,
        )

        settings = [top, frame_weight, top_frames]
        everything = [query, exclude, upload, *settings]
        limits: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_limit": _AT_ONCE,
            "concurrency_id": "search",
            "trigger_mode": "always_last",
        }
        for ask in (query.submit, go.click, exclude.submit, upload.upload):
            ask(answers.search, everything, results, **limits)
        for button in examples:
            words = str(button.value)
            button.click(None, None, [query, upload], js=f"() => [{json.dumps(words)}, null]").then(
                answers.search, everything, results, **limits
            )
        results.select(answers.similar, settings, results, **limits)
    blocks.queue(max_size=_QUEUED, api_open=False, default_concurrency_limit=_AT_ONCE)
    return blocks


class Answers:
    """The functions behind the events. They return HTML, whatever they are given."""

    def __init__(self, index: VideoIndex, retriever: Retriever) -> None:
        self._index = index
        self._retriever = retriever

    def search(
        self, text: Any, exclude: Any, upload: Any, top: Any, frame_weight: Any, top_frames: Any
    ) -> str:
        """Results for a text, an uploaded file, or both."""

        def answer() -> tuple[SearchResults, str]:
            words = _text(text, "query")
            settings = _settings(top, frame_weight, top_frames)
            file = uploaded(upload)
            title = " + ".join(part for part in (words, file.name if file else "") if part)
            if not title:
                raise QueryError("the query is empty; give a text, a picture or a clip")
            unwanted = _text(exclude, "text to exclude")
            kind: dict[str, Any] = {} if file is None else {_kind(file): file}
            found = self._retriever.search(
                self._index, words or None, exclude=unwanted or None, **kind, **settings
            )
            return found, title + (f", not {unwanted}" if unwanted else "")

        return self._html(answer, upload)

    def similar(self, top: Any, frame_weight: Any, top_frames: Any, event: gr.EventData) -> str:
        """Results like a video of the index."""

        def answer() -> tuple[SearchResults, str]:
            data = event._data
            video_id = data.get("id") if isinstance(data, dict) else None
            if not isinstance(video_id, str) or video_id not in self._index:
                raise QueryError("this video is not in the index any more; search again")
            found = self._retriever.similar(self._index, video_id, **_settings(top, frame_weight, top_frames))
            return found, f"Like {video_id}"

        return self._html(answer)

    def _html(self, answer: Callable[[], tuple[SearchResults, str]], upload: Any = None) -> str:
        try:
            found, title = answer()
            return results_html(found, title=title, videos=len(self._index))
        except ClipError as error:
            name = Path(upload).name if isinstance(upload, str) else "the file"
            why = _without_folders(error.message, upload).removeprefix(f"{name}: ")
            return error_html(f"{name}: no picture or clip that can be read ({why})")
        except ValueError as error:
            return error_html(_without_folders(str(error), upload, self._index.folder))
        except Exception:
            logger.exception("a search failed")
            return error_html("something went wrong here; the terminal of the program says what")


def _text(value: Any, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise QueryError(f"the {name} must be a text")
    return (value or "").strip() if value and value.strip() else ""


def _settings(top: Any, frame_weight: Any, top_frames: Any) -> dict[str, Any]:
    for value, name in ((top, "videos to show"), (frame_weight, "frame weight"), (top_frames, "top frames")):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise QueryError(f"{name}: give a number")
    if not 1 <= top <= MAX_SHOWN:
        raise QueryError(f"videos to show: give a number from 1 to {MAX_SHOWN}")
    return {"top": int(top), "frame_weight": float(frame_weight), "top_frames": int(top_frames)}


def _kind(file: Path) -> str:
    """ "image" or "video"."""
    return "image" if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif") else "video"


def _without_folders(message: str, *paths: Any) -> str:
    """A message that tells nobody where files lie."""
    for path in paths:
        if path:
            message = message.replace(str(Path(path).resolve()), Path(path).name)
            message = message.replace(str(path), Path(path).name)
    return message


def _intro(videos: int, language: str, remark: str) -> str:
    told = f"{videos:,} video{'s' if videos != 1 else ''}, searched in {_LANGUAGES[language]}"
    return f'<div class="intro"><h1>Video search</h1><p>{told}</p></div>' + (
        f'<p class="remark">{escape(remark)}</p>' if remark else ""
    )


def _theme() -> gr.themes.Base:
    """Gradio's own looks with the fonts of the system, for nothing is fetched, and more contrast."""
    fonts = ["system-ui", "Noto Sans", "Noto Sans CJK SC", "Noto Sans SC", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="zinc", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_large_text_size="*text_md",
    )
