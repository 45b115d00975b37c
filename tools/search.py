"""Search your own videos: by words, a picture or a clip.

    python tools/search.py index --video_dir FOLDER --out INDEX     a published model, no training
    python tools/search.py index --video_dir FOLDER --model OWNER/NAME --out INDEX
    python tools/search.py index --video_dir FOLDER --init_model CKPT --out INDEX
    python tools/search.py index --store STORE [--video_dir FOLDER] --init_model CKPT --out INDEX
    python tools/search.py query INDEX "a man is singing" [--top 10] [--json]
    python tools/search.py query INDEX "a dog" --not snow | --image FILE | --video FILE
    python tools/search.py query INDEX "一只狗"     with a Chinese or a bilingual model
    python tools/search.py remove INDEX ID... | restore INDEX [ID...] | info INDEX

Indexing again adds what is new or changed, and continues where it was interrupted. The model's settings are
read from config.json in the checkpoint's folder; flags override them. docs/SEARCH.md says more.
Exit code: 0 done, 1 some videos failed (failures.jsonl in the index names them) or the disk is full, 2 wrong
usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.arguments import ArgumentParser
from common.errors import UserError, run_program
from common.languages import BILINGUAL, LANGUAGES
from modules.heads.registry import HEADS
from search.index_format import (
    ENGINES,
    FAISS_KINDS,
    SETTINGS_FILE,
    THUMBNAILS,
    check_new_folder,
    kind_of,
    read_settings,
)
from search.models.saved import may_be_checkpoint
from search.query import QueryError, check_frame_weight, check_top, check_top_frames
from search.results import clock
from tools.store.flag_values import positive, seconds

if TYPE_CHECKING:  # flags and paths are checked before torch and transformers are imported
    from search import Hit, Retriever, SearchResults

_PROGRAM = "search.py"
_MODEL_FLAGS = (
    *("clip_model", "pretrained_text", "language", "use_temp", "use_frame_fea", "top_frames", "head"),
    *("temporal_layers", "max_frames", "max_words", "legacy_special_tokens", "cache_dir"),
)
_PRETRAINED_FLAGS = ("max_frames", "top_frames", "max_words", "tokenizer", "cache_dir")


def build_parser() -> argparse.ArgumentParser:
    """The commands with their flags."""
    parser = ArgumentParser(
        prog=_PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_index(commands.add_parser("index", help="make an index, or bring it up to date"))
    _add_query(commands.add_parser("query", help="search"))
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
    add("--index_kind", choices=FAISS_KINDS, help="FAISS index (default auto: flat up to 100,000 videos)")
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
    add("--init_model", type=Path, help="path of the index's checkpoint, if it was moved")
    add("--model", metavar="FOLDER", help="folder of the index's published model, if it was moved")
    _add_engine(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=ENGINES, help="engine that proposes candidates (default faiss)")
    parser.add_argument("--url", help="of the Qdrant server, such as http://127.0.0.1:6333")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    return run_program(_PROGRAM, lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    commands = {"index": _index, "query": _query, "remove": _remove, "restore": _restore, "info": _info}
    return commands[arguments.command](arguments)


def _index(arguments: argparse.Namespace) -> int:
    _check_files(arguments, "init_model", "config")
    check_new_folder(arguments.out)
    _check_source(arguments.video_dir, arguments.store)
    _check_model_flags(arguments)
    from search import index_videos
    from tools.store.progress import StopSignals

    retriever = _retriever(arguments)
    engine_flags = {"kind": arguments.index_kind, "url": arguments.url}
    options = {name: value for name, value in engine_flags.items() if value is not None}
    with StopSignals() as signals:
        report = index_videos(
            retriever,
            arguments.out,
            video_dir=arguments.video_dir,
            store=arguments.store,
            prune=arguments.prune,
            workers=arguments.num_workers,
            timeout=arguments.timeout,
            batch=arguments.batch_size,
            thumbnails=arguments.thumbnails,
            engine=arguments.engine,
            engine_options=options or None,
            stop=lambda: bool(signals.received),
        )
    text = str(report)
    if report.failed:
        text += f"; see {arguments.out / 'failures.jsonl'}"
    if signals.received:
        _say(f"{text}; stopped by a signal: the same command continues from here")
        return 128 + signals.received
    _say(text)
    return 1 if report.failed else 0


def _check_model_flags(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for flags of a model that do not fit together."""
    if arguments.init_model is not None and (arguments.model or arguments.tokenizer):
        raise UserError("--init_model: a checkpoint; --model and --tokenizer are of a published model")
    if arguments.init_model is None:
        names = ("config", *(name for name in _MODEL_FLAGS if name not in _PRETRAINED_FLAGS))
        given = [name for name in names if getattr(arguments, name) is not None]
        if given:
            raise UserError(
                f"--{given[0]}: is for a checkpoint (--init_model); a published model has its own"
            )


def _retriever(arguments: argparse.Namespace) -> Retriever:
    """The model of the flags; without any, that of the index, or the default of a new one."""
    from search import Retriever

    if arguments.init_model is not None:
        settings = {name: getattr(arguments, name) for name in _MODEL_FLAGS}
        return Retriever.from_checkpoint(arguments.init_model, config=arguments.config, **settings)
    settings = {name: getattr(arguments, name) for name in _PRETRAINED_FLAGS}
    given = {name: value for name, value in settings.items() if value is not None}
    if arguments.model is None and not given and (arguments.out / SETTINGS_FILE).exists():
        return Retriever.for_index(arguments.out)
    return Retriever.from_pretrained(*filter(None, [arguments.model]), **given)


def _query(arguments: argparse.Namespace) -> int:
    _check_query(arguments)
    read_settings(arguments.index)
    _check_files(arguments, "init_model", "image", "video")
    from search import Retriever, VideoIndex

    with VideoIndex(arguments.index, engine=arguments.engine, url=arguments.url) as index:
        retriever = Retriever.for_index(index, checkpoint=arguments.init_model, model=arguments.model)
        results = retriever.search(
            index,
            arguments.text,
            image=arguments.image,
            video=arguments.video,
            exclude=arguments.exclude,
            language=arguments.language,
            top=arguments.top,
            frame_weight=arguments.frame_weight,
            top_frames=arguments.top_frames,
        )
    if arguments.json:
        _print(json.dumps(results.to_json(), ensure_ascii=False, indent=1))
        return 0
    for remark in results.remarks:
        _say(f"note: {remark}")
    _print(table(results))
    return 0


def _check_query(arguments: argparse.Namespace) -> None:
    """Raise `QueryError` for a query that no index could answer."""
    if arguments.text is None and arguments.image is None and arguments.video is None:
        raise QueryError("the query is empty; give a text, a picture or a video")
    check_top(arguments.top)
    if arguments.frame_weight is not None:
        check_frame_weight(arguments.frame_weight)
    if arguments.top_frames is not None:
        check_top_frames(arguments.top_frames)


def _check_source(video_dirs: Sequence[Path] | None, store: Path | None) -> None:
    """Raise `UserError` if there is nothing to index at the paths of --video_dir and --store."""
    if not video_dirs and store is None:
        raise UserError("nothing to index: give --video_dir or --store")
    for video_dir in video_dirs or ():
        if not video_dir.is_dir():
            raise UserError(f"{video_dir}: no such folder of videos (--video_dir)")
    if store is not None:
        from dataloaders.frame_store.reader import FrameStore

        FrameStore(store)


def _check_files(arguments: argparse.Namespace, *flags: str) -> None:
    """Raise `UserError` if a file that a flag names does not exist."""
    for flag in flags:
        path = getattr(arguments, flag)
        found = may_be_checkpoint if flag == "init_model" else Path.is_file
        if path is not None and not found(path.expanduser()):
            raise UserError(f"--{flag} {path}: no such file")


def table(results: SearchResults) -> str:
    """The hits as lines: place, score, best moment, id and file."""
    if not results.hits:
        return "nothing found: the index is empty"
    lines = [f"{'':>3} {'score':>6}  {'best moment':>11}  video"]
    for place, hit in enumerate(results.hits, start=1):
        lines.append(
            f"{place:>3} {hit.score:6.3f}  {_time(hit.moment):>11}  {_shown(hit.video_id)}{_where(hit)}"
        )
    return "\n".join(lines)


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else clock(seconds, tenths=True)


def _shown(name: str) -> str:
    """A name on one line, without control characters for the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _where(hit: Hit) -> str:
    missing = "  (missing: the file was deleted or moved)" if hit.missing else ""
    return missing + (f"  (also {', '.join(map(_shown, hit.copies))})" if hit.copies else "")


def _remove(arguments: argparse.Namespace) -> int:
    from search.indexing import remove_videos

    removed = remove_videos(arguments.index, list(dict.fromkeys(arguments.video_id)))
    _say(f"{removed:,} removed from {arguments.index}; restore undoes it")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from search.indexing import restore_videos

    restored = restore_videos(arguments.index, list(dict.fromkeys(arguments.video_id)))
    _say(f"{restored:,} come back when {arguments.index} is brought up to date")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    read_settings(arguments.index)
    from search import VideoIndex

    with VideoIndex(arguments.index) as index:
        info: dict[str, Any] = index.info()
    if arguments.json:
        _print(json.dumps(info, ensure_ascii=False, indent=1))
        return 0
    model, videos = info["model"], info["videos"]
    copies = f", {info['copies']:,} of them copies" if info["copies"] else ""
    taken_out = f"; {len(info['taken_out']):,} taken out before" if info["taken_out"] else ""
    sources = "".join(f"{number:,} from {source}\n" for source, number in info["sources"].items())
    _print(
        f"{videos:,} video{'' if videos == 1 else 's'}{copies}, {info['bytes'] / 1e6:,.1f} MB in "
        f"{arguments.index}{taken_out}\n{sources}"
        f"{info['frames']} frames a video, width {info['width']}, thumbnails {info['thumbnails']}, "
        f"engine {info['engine']}, {info['removed_rows']} empty rows\n"
        f"{kind_of(model)} model {model['path']} ({model['language']}, {model['clip_model']}, "
        f"hash {model['hash'][:12]})"
    )
    return 0


def _print(text: str) -> None:
    """Print `text`; characters that the encoding of stdout lacks become "?"."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
