"""Which files are videos, by extension: those that FFmpeg's readers claim, and some it knows by content.

What is plainly no video is taken out, for FFmpeg claims sound, pictures, subtitles and text too and does not
say which is which. An extension that is let through by mistake costs a line in `failures.jsonl`; one that is
left out costs videos without a word. So whatever is in doubt stays.
"""

from __future__ import annotations

from functools import lru_cache

from av.format import ContainerFormat, formats_available

# In the order of preference where two files share a name. FFmpeg knows many of these by content alone (MPEG,
# ASF, RealMedia), so that no reader of it claims them.
COMMON_EXTENSIONS = (
    "mp4 mkv webm avi mov m4v flv f4v mpg mpeg ts mts m2ts m2t wmv asf 3gp 3g2 ogv vob dv gif mxf rm rmvb "
    "mj2 nut wtv y4m ivf h264 264 avc hevc h265 265 obu mjpeg mjpg m1v m2v h263 vc1 amv dav ismv mk3d dvd "
    "swf viv apng ogg vvc h266 266 h261 avs2 avs3 ivr kux usm xmv psp drc dirac vc2 divx evo gxf nsv mod "
    "tod trp cavs dnxhd dnxhr roq cpk"
)
SOUND = (
    "302 722 aa aa3 aac aax ac3 ac4 acm adp ads adx aea afc aix al apc ape apl aptx aptxhd ast avr bcstm "
    "bfstm binka bit bonk brstm c2 cdata daud dfpwm dss dtk dts dtshd eac3 ec3 fap flac fsb fwse g722 "
    "g723_1 g728 g729 genh gsm hca iamf ircam isma laf lc3 m2a m4a m4b mac mca mka mlp mp2 mp3 mpa mpc "
    "msbc msf mtaf musx nist nsp oma omg opus osq paf pvf qoa rco rka rsd rso sb sbc sbg sdns sds sdx sf "
    "shn sln son sph spx ss2 svag svs sw tak tco thd tta ub ul uw vag vpk vqe vqf vql wa wav way wsd wv "
    "xmd xvag"
)
PICTURES = "avif bmp heic heif j2k jp2 jpeg jpg jxl mpo png tif tiff webp"
SUBTITLES = "aqt ass idx jss lrc mcc mks mpl2 pjs rt sami scc smi srt ssa stl sub sup ttml vtt webvtt"
TEXT = "adf ans art asc csv diz ice idf json nfo txt vt xml"


@lru_cache(maxsize=1)
def video_extensions() -> dict[str, int]:
    """Extensions of videos, in lower case, with their rank: the lowest wins where two files share a name."""
    others = set(" ".join((SOUND, PICTURES, SUBTITLES, TEXT)).split())
    common = COMMON_EXTENSIONS.split()
    claimed = sorted(_claimed_by_readers() - others - set(common))
    return {extension: rank for rank, extension in enumerate((*common, *claimed))}


def _claimed_by_readers() -> set[str]:
    """All extensions that a reader of this FFmpeg claims, of whatever kind of file."""
    claimed: set[str] = set()
    for name in formats_available:
        try:
            claimed |= {extension.lower() for extension in ContainerFormat(name, "r").extensions}
        except ValueError:  # a format that is only written
            continue
    return claimed
