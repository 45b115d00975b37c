"""What the name of a file says: its id, and whether its extension is one of videos.

Importing this file is cheap; `video_files.py` opens files.
"""

from __future__ import annotations

_VIDEOS = (
    "mp4 mkv webm avi mov m4v flv f4v mpg mpeg ts mts m2ts m2t wmv asf 3gp 3g2 3gpp 3gpp2 qt ogv ogm vob m2p "
    "dv gif mxf rm rmvb m1v m2v divx mk3d y4m ivf h264 264 hevc h265 265 mjpeg mjpg apng"
)
_OTHERS = (
    "jpg jpeg png webp bmp tif tiff heic heif avif jxl jp2 j2k ico svg psd dng cr2 nef "
    "mp3 wav m4a aac flac opus wma aif aiff amr ac3 mka oga mid midi "
    "srt vtt ass ssa sub idx ttml lrc "
    "txt csv tsv json jsonl xml html htm md nfo log pdf yaml yml toml ini cfg py sh ipynb "
    "zip tar gz tgz bz2 xz zst 7z rar npy npz pt pth ckpt safetensors pkl h5 hdf5 parquet mdb db sqlite "
    "m3u m3u8 pls mpd sdp ffconcat part ytdl crdownload aria2 tmp torrent md5 sha256"
)
VIDEO_EXTENSIONS = tuple(_VIDEOS.split())  # in the order of preference if two files have the same name
OTHER_EXTENSIONS = frozenset(_OTHERS.split())
_RANKS = {extension: rank for rank, extension in enumerate(VIDEO_EXTENSIONS)}
UNKNOWN, OTHER = len(VIDEO_EXTENSIONS), len(VIDEO_EXTENSIONS) + 1
HIDDEN = "hidden"  # ".name": what other programs leave behind, such as ._clip.mp4 and .trashed-1-clip.mp4


def stem_and_extension(name: str) -> tuple[str, str]:
    """("Clip", "mp4") of "Clip.MP4": the name without its extension, and the extension in lower case."""
    stem, _, extension = name.rpartition(".")
    return (stem, extension.lower()) if stem else (name, "")


def rank_of(name: str) -> int:
    """Less than `UNKNOWN` for a video, the best first; `UNKNOWN` if the content decides; else `OTHER`."""
    extension = stem_and_extension(name)[1]
    return OTHER if extension in OTHER_EXTENSIONS else _RANKS.get(extension, UNKNOWN)


def kind_left_out(name: str) -> str:
    """What a file that is left out is counted as: "hidden", its extension ".txt", or "without extension"."""
    if name.startswith("."):
        return HIDDEN
    extension = stem_and_extension(name)[1]
    return f".{extension}" if extension else "without extension"


def without_extension(file: str) -> str:
    """`file` without the extension of a video; any other is part of the id."""
    stem, extension = stem_and_extension(file)
    return stem if extension in VIDEO_EXTENSIONS and not stem.endswith("/") else file
