"""The gradio page, mounted on the app of the API: a search box, an upload, settings and results."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from demo.gradio_access import block_files
from demo.limits import Limits
from demo.page_events import MAX_CARDS, PageEvents
from demo.page_html import hint_html, intro_html, script_html
from search import Retriever, VideoIndex
from search.query import MAX_FRAME_WEIGHT, MAX_QUERY_CHARACTERS

CARDS = 12  # shown by default
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
_WAITING = 32  # events that may wait
_AT_ONCE = 2  # events that run at once
# A click on "similar" in the results becomes an event with the id of the video.
_ON_LOAD = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-similar]");
  if (button) trigger("select", { id: button.dataset.similar });
});"""


@dataclass(frozen=True)
class PageText:
    """Example queries (none: default ones in the language of the model) and a remark on the model."""

    examples: Sequence[str] = ()
    remark: str = ""


def mount_page(
    app: FastAPI, index: VideoIndex, retriever: Retriever, text: PageText | None = None
) -> FastAPI:
    """`app`, which `create_app` made, with the page at "/"."""
    limits: Limits = app.state.limits
    events = PageEvents(index, retriever, app.state.decoder, limits)
    blocks = make_page(events, text or PageText())
    # "/" is mounted last: a route that is added later would never be reached.
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.upload_bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=_theme(),
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        head=script_html((_HERE / "page.js").read_text(encoding="utf-8")),
    )
    block_files(blocks)
    return mounted


def make_page(events: PageEvents, text: PageText) -> gr.Blocks:
    """The page as gradio blocks."""
    index, retriever = events.index, events.retriever
    language = retriever.config.language
    with gr.Blocks(title="Video search", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(intro_html(videos=len(index), language=_LANGUAGES[language], remark=text.remark))
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
                    label="Search by this file, alone or with words",
                    file_types=["image", "video"],
                    type="filepath",
                    height=140,
                    elem_id="upload",
                )
            with gr.Accordion("Settings", open=False, elem_id="more-settings"):
                top = gr.Slider(1, MAX_CARDS, value=CARDS, step=1, label="Videos to show", elem_id="top")
                frame_weight = gr.Number(
                    retriever.frame_weight,
                    label="Frame weight",
                    info="weight of the best frames relative to the whole video",
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
            hint_html(videos=len(index)),
            js_on_load=_ON_LOAD,
            elem_id="results",
            apply_default_css=False,
        )

        settings = [top, frame_weight, top_frames]
        inputs = [query, exclude, upload, *settings]
        limits: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_limit": _AT_ONCE,
            "concurrency_id": "search",
            "trigger_mode": "always_last",
        }
        for ask in (query.submit, go.click, exclude.submit, upload.upload):
            ask(events.search, inputs, results, **limits)
        for button in examples:
            words = str(button.value)
            button.click(None, None, [query, upload], js=f"() => [{json.dumps(words)}, null]").then(
                events.search, inputs, results, **limits
            )
        results.select(events.similar, settings, results, **limits)
    blocks.queue(max_size=_WAITING, api_open=False, default_concurrency_limit=_AT_ONCE)
    return blocks


def _theme() -> gr.themes.Base:
    """Gradio's default theme with more contrast and system fonts, because nothing may be fetched."""
    fonts = ["system-ui", "Noto Sans", "Noto Sans CJK SC", "Noto Sans SC", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="blue", neutral_hue="zinc", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_large_text_size="*text_md",
    )
