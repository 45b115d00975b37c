"""The gradio page, mounted on the app of the API: a search box, an upload, settings and results."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from demo.errors import http_error
from demo.gradio_access import KnownSessions, block_files
from demo.limits import Limits
from demo.page.events import MAX_CARDS, PageEvents
from demo.page.html import file_html, hint_html, intro_html, script_html, stale_html
from search import Retriever, VideoIndex
from search.query import MAX_FRAME_WEIGHT, MAX_QUERY_CHARACTERS

CARDS = 12  # shown by default
_HERE = Path(__file__).resolve().parent
_AT_ONCE = 2  # events that run at once
# A click on "similar" in the results becomes an event with the id of the video.
_ON_LOAD = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-similar]");
  if (!button) return;
  page.like(button.dataset.similar);
  trigger("select");
});"""


@dataclass(frozen=True)
class PageText:
    """Example queries and a remark on the model."""

    examples: Sequence[str] = ()
    remark: str = ""


def mount_page(
    app: FastAPI, index: VideoIndex, retriever: Retriever, text: PageText | None = None
) -> FastAPI:
    """`app`, which `create_app` made, with the page at "/"."""
    limits: Limits = app.state.limits
    events = PageEvents(index, retriever, app.state.decoder, app.state.uploads, limits)
    blocks = make_page(events, text or PageText())
    defaults = {
        "top": CARDS,
        "weight": retriever.frame_weight,
        "frames": _usual_top_frames(retriever),
    }
    # "/" is mounted last: a route that is added later would never be reached.
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=0,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=_theme(),
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        head=script_html((_HERE / "page.js").read_text(encoding="utf-8"), events.words, defaults),
    )
    block_files(blocks)
    (mount,) = (route for route in app.router.routes if isinstance(route, Mount))
    assert isinstance(mount.app, FastAPI)
    for status in (404, 405):  # gradio's own answers have another form
        mount.app.add_exception_handler(status, http_error)
    mount.app = KnownSessions(mount.app, blocks)
    return mounted


def make_page(events: PageEvents, text: PageText) -> gr.Blocks:
    """The page as gradio blocks. The script `page.js` fills in the hidden boxes."""
    index, retriever, words = events.index, events.retriever, events.words
    with gr.Blocks(title=words.title, analytics_enabled=False) as blocks:
        gr.HTML(intro_html(words, videos=len(index), remark=text.remark))
        with gr.Row(elem_classes="ask"):
            query = gr.Textbox(
                label=words.query,
                placeholder=words.placeholder,
                show_label=False,
                container=False,
                autofocus=True,
                max_length=MAX_QUERY_CHARACTERS,
                scale=5,
                min_width=200,
                elem_id="query",
            )
            go = gr.Button(words.search, variant="primary", scale=1, min_width=72, elem_id="go")
        with gr.Row(elem_classes="examples"):
            gr.HTML(file_html(words), elem_id="pick", min_height=0, container=False)
            examples = [gr.Button(example, size="sm") for example in text.examples]
        with gr.Accordion(words.options, open=False, elem_id="more"):
            exclude = gr.Textbox(
                label=words.exclude,
                placeholder=words.exclude_placeholder,
                show_label=False,
                container=False,
                max_length=MAX_QUERY_CHARACTERS,
                elem_id="exclude",
            )
            with gr.Row(elem_classes="settings"):
                top = gr.Slider(1, MAX_CARDS, value=CARDS, step=1, label=words.top, elem_id="top")
                frame_weight = gr.Number(
                    retriever.frame_weight,
                    label=words.frame_weight,
                    info=words.frame_weight_info,
                    minimum=0,
                    maximum=MAX_FRAME_WEIGHT,
                    step=0.1,
                )
                top_frames = gr.Slider(
                    1,
                    retriever.frames,
                    value=_usual_top_frames(retriever),
                    step=1,
                    label=words.top_frames,
                    info=words.top_frames_info,
                )
        gr.HTML(stale_html(words), elem_id="stale")
        results = gr.HTML(
            hint_html(words, videos=len(index)),
            js_on_load=_ON_LOAD,
            elem_id="results",
            apply_default_css=False,
        )
        file_id, like = (gr.Textbox(visible=False) for _ in range(2))
        restore = gr.Button(visible="hidden", elem_id="restore")

        settings = [top, frame_weight, top_frames]
        inputs = [query, exclude, file_id, like, *settings]

        def search(
            listen: Callable[..., Any], script: str, function: Callable[..., str] = events.search
        ) -> None:
            """Search on an event, with the arguments that a function of page.js returns."""
            listen(
                function,
                inputs,
                results,
                js=f"(...values) => page.{script}(...values)",
                api_visibility="private",
                concurrency_limit=_AT_ONCE,
                concurrency_id="search",
                trigger_mode="always_last",
                show_progress="minimal",
            ).then(None, js="() => page.tell()")

        for ask in (query.submit, go.click, exclude.submit):
            search(ask, "search")
        for button in examples:
            example = f"() => page.example({json.dumps(str(button.value))})"
            search(button.click(None, None, [query, exclude], js=example).then, "search")
        search(results.select, "search_like")
        values = [query, exclude, *settings]
        search(
            restore.click(None, None, values, js="() => page.restored()").then,
            "search_again",
            events.restore,
        )
        changes = [query.input, exclude.input, *(setting.change for setting in settings)]
        gr.on(changes, None, values, None, js="(...values) => page.changed(...values)")
        blocks.load(None, js="() => page.start()")
    blocks.queue(max_size=events.waiting, api_open=False, default_concurrency_limit=_AT_ONCE)
    return blocks


def _usual_top_frames(retriever: Retriever) -> int:
    return min(retriever.config.top_frames, retriever.frames)


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
