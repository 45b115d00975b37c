"""Search your own videos: by words, a picture or a clip.

    python tools/search.py index --video_dir FOLDER --out INDEX     a published model, no training
    python tools/search.py index --video_dir FOLDER --model OWNER/NAME --out INDEX
    python tools/search.py index --video_dir FOLDER --init_model CKPT --out INDEX
    python tools/search.py index --store STORE [--video_dir FOLDER] --init_model CKPT --out INDEX
    python tools/search.py query INDEX "a man is singing" [--top 10] [--json]
    python tools/search.py query INDEX "a dog" --not snow | --image FILE | --video FILE
    python tools/search.py query INDEX "一只狗"     with a Chinese or a bilingual model
    python tools/search.py query INDEX "a dog" --export FOLDER       the best moments as files
    python tools/search.py export INDEX VIDEO 12:20 12:44 --out dog.mp4
    python tools/search.py remove INDEX ID... | restore INDEX [ID...] | info INDEX

Indexing again adds what is new or changed, and continues where it was interrupted. The model's settings are
read from config.json in the checkpoint's folder; flags override them. docs/SEARCH.md says more.
Exit code: 0 done, 1 some videos failed (failures.jsonl in the index names them) or the disk is full, 2 wrong
usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from any folder
if __name__ == "__main__":
    import common.early_interrupt  # noqa: F401  (Ctrl-C during the imports that follow)

from common.errors import UserError, file_errors, run_program
from search.index_format import SETTINGS_FILE, check_new_folder, kind_of, read_settings
from search.models.saved import may_be_checkpoint
from search.query import QueryError, check_frame_weight, check_top, check_top_frames
from tools.searching.answers import table
from tools.searching.flags import MODEL_FLAGS, PRETRAINED_FLAGS, PROGRAM, build_parser

if TYPE_CHECKING:  # flags and paths are checked before torch and transformers are imported
    from search import Retriever, SearchResults, VideoIndex


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv`; returns its exit code."""
    return run_program(PROGRAM, lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = build_parser(__doc__).parse_args(argv)
    commands = {
        "index": _index,
        "query": _query,
        "export": _export,
        "remove": _remove,
        "restore": _restore,
        "info": _info,
    }
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
            every=arguments.every,
            cut_above=arguments.cut_above,
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
        names = ("config", *(name for name in MODEL_FLAGS if name not in PRETRAINED_FLAGS))
        given = [name for name in names if getattr(arguments, name) is not None]
        if given:
            raise UserError(
                f"--{given[0]}: is for a checkpoint (--init_model); a published model has its own"
            )


def _retriever(arguments: argparse.Namespace) -> Retriever:
    """The model of the flags; without any, that of the index, or the default of a new one."""
    from search import Retriever

    if arguments.init_model is not None:
        settings = {name: getattr(arguments, name) for name in MODEL_FLAGS}
        return Retriever.from_checkpoint(arguments.init_model, config=arguments.config, **settings)
    settings = {name: getattr(arguments, name) for name in PRETRAINED_FLAGS}
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
        failed = _export_hits(index, results, arguments.export) if arguments.export else False
    if arguments.json:
        _print(json.dumps(results.to_json(), ensure_ascii=False, indent=1))
        return int(failed)
    for remark in results.remarks:
        _say(f"note: {remark}")
    _print(table(results))
    return int(failed)


def _export_hits(index: VideoIndex, results: SearchResults, folder: Path) -> bool:
    """Save the best moment of each hit in `folder`; returns whether one could not be saved."""
    from search.moments.export import export_hit

    with file_errors(folder, "cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for place, hit in enumerate(results.hits, start=1):
        try:
            _say(str(export_hit(index, hit, folder, place=place)))
        except UserError as error:
            failed = True
            _say(f"not saved: {error}")
    return failed


def _export(arguments: argparse.Namespace) -> int:
    read_settings(arguments.index)
    from search import VideoIndex
    from search.moments.export import export_part

    with VideoIndex(arguments.index) as index:
        done = export_part(
            index, arguments.video_id, start=arguments.start, end=arguments.end, out=arguments.out
        )
    _say(str(done))
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
    copies += f", long ones cut into {info['moments']:,} moments" if info["moments"] else ""
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
