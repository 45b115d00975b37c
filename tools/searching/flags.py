"""The commands and flags of tools/search.py."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from common.arguments import ArgumentParser
from common.languages import BILINGUAL, LANGUAGES
from modules.heads.registry import HEADS
from search.index_format import ENGINES, FAISS_KINDS, THUMBNAILS
from tools.store.flag_values import positive, seconds

PROGRAM = "search.py"
MODEL_FLAGS = (
    *("clip_model", "pretrained_text", "language", "use_temp", "use_frame_fea", "top_frames", "head"),
    *("temporal_layers", "max_frames", "max_words", "legacy_special_tokens", "cache_dir"),
)
PRETRAINED_FLAGS = ("max_frames", "top_frames", "max_words", "tokenizer", "cache_dir")


def build_parser(description: str | None) -> argparse.ArgumentParser:
    """The commands with their flags."""
    parser = ArgumentParser(
        prog=PROGRAM, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_index(commands.add_parser("index", help="make an index, or bring it up to date"))
    _add_query(commands.add_parser("query", help="search"))
    _add_export(commands.add_parser("export", help="save a part of an indexed video as a file"))
    remove = commands.add_parser("remove", help="take videos out of an index; they do not come back")
    remove.add_argument("index", type=Path)
    remove.add_argument("video_id", nargs="+")
    restore = commands.add_parser("restore", help="let removed videos come back with the next index")
    restore.add_argument("index", type=Path)
    restore.add_argument("video_id", nargs="*", help="default: all that were removed")
    info = commands.add_parser("info", help="what an index holds")
    info.add_argument("index", type=Path)
    info.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_index(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    folders = "folder with videos, subfolders included; repeatable; with --store: its files"
    add("--video_dir", type=Path, action="append", metavar="FOLDER", help=folders)
    add("--store", type=Path, help="frame store (tools/frame2lmdb.py) to index instead of files")
    add("--out", type=Path, required=True, help="folder of the index")
    add("--prune", action="store_true", help="remove videos that the folder or store no longer has")
    add("--num_workers", type=positive, default=os.cpu_count() or 1, help="decoders (default: all cores)")
    add("--batch_size", type=positive, default=8, help="clips encoded, and committed, at once (default 8)")
    add("--timeout", type=seconds, default=300.0, help="seconds a video may take (default 300)")
    add("--thumbnails", choices=THUMBNAILS, help="thumbnails to keep of a video (default: all frames)")
    add("--every", type=seconds, help="seconds of a moment of a long video, at most (default 24)")
    add("--cut_above", type=_seconds_or_0, help="longer videos are cut into moments; 0: none (default 120)")
    add("--index_kind", choices=FAISS_KINDS, help="FAISS index (default auto: by the number of videos)")
    _add_engine(parser)
    model = parser.add_argument_group("model", "as the flags of main_task_retrieval.py")
    model.add_argument(
        "--init_model", type=Path, help="checkpoint of a training, or its folder, or OWNER/NAME of the hub"
    )
    published = "published model instead: open_clip name[:tag or file], OWNER/NAME of the hub, or a folder"
    model.add_argument("--model", metavar="NAME", help=f"{published} [ViT-B-16-SigLIP2]")
    model.add_argument(
        "--tokenizer", metavar="FOLDER", help="with --model: its tokenizer, if it is elsewhere"
    )
    model.add_argument("--config", type=Path, help="settings of its run [config.json in its folder]")
    for name in ("clip_model", "pretrained_text", "cache_dir"):
        model.add_argument(f"--{name}")
    model.add_argument("--language", choices=(*LANGUAGES, BILINGUAL))
    model.add_argument("--head", choices=tuple(HEADS))
    for name in ("use_temp", "use_frame_fea", "legacy_special_tokens"):
        model.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None)
    for name in ("top_frames", "temporal_layers", "max_frames", "max_words"):
        model.add_argument(f"--{name}", type=positive)


def _add_query(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("index", type=Path)
    add("text", nargs="?", help="what the video should show")
    add("--not", dest="exclude", action="append", metavar="TEXT", help="what it should not show")
    add("--language", choices=LANGUAGES, help="of the texts, for a bilingual model [told by their letters]")
    add("--image", type=Path, metavar="FILE", help="a picture as the query, alone or with the text")
    add("--video", type=Path, metavar="FILE", help="a clip as the query, alone or with the text")
    add("--top", type=int, default=10, help="videos to show (default 10)")
    add("--frame_weight", type=float, help="how much single frames count [as in evaluation]")
    add("--top_frames", type=int, help="frames that count [as in evaluation]")
    add("--json", action="store_true", help="for programs")
    add("--export", type=Path, metavar="FOLDER", help="save the best moment of each result there")
    add("--init_model", type=Path, help="path of the index's checkpoint, if it was moved")
    add("--model", metavar="FOLDER", help="folder of the index's published model, if it was moved")
    _add_engine(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("index", type=Path)
    add("video_id", metavar="VIDEO")
    add("start", type=_clock, metavar="START", help="seconds, or as 1:02:03.5")
    add("end", type=_clock, metavar="END", help="seconds, or as 1:02:03.5")
    add("--out", type=Path, required=True, metavar="FILE", help="new file; its extension is the container's")


def _clock(text: str) -> float:
    """Seconds of "3723.5" or "1:02:03.5"."""
    total = 0.0
    for part in text.split(":"):
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", part):
            raise argparse.ArgumentTypeError(f"must be seconds, or as 1:02:03.5, not {text}")
        total = 60 * total + float(part)
    return total


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=ENGINES, help="engine that proposes candidates (default faiss)")
    parser.add_argument("--url", help="of the Qdrant server, such as http://127.0.0.1:6333")


def _seconds_or_0(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)
