"""The report's folder: complete, self-contained, escaped, reproducible, and not stopped by broken videos."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from dataloaders.examples import Examples, ExamplesBuilder
from dataloaders.frame_store.reader import FrameStore
from engine.evaluation.similarity import MatrixTiles
from engine.report.plots import sample_scores
from engine.report.queries import read_queries
from engine.report.report import write_report
from engine.report.thumbnails import SIDE, thumbnail
from tests.engine.report.inputs import CHINESE, blank_plots, examples, measured, result_of, scores

__all__ = ["blank_plots"]
FILES = {
    "report.json",
    "report.html",
    "queries.jsonl",
    "recall.png",
    "ranks.png",
    "length.png",
    "similarity.png",
}


def write(
    folder: Path, split: Examples, *, skill: float = 1.0, store: FrameStore | None = None, **about
) -> str:
    found, tiles = measured(split, scores(split, skill=skill), resamples=50, dsl_temperature=10.0)
    result = result_of(split, found, **about)
    page = write_report(
        folder, result=result, rankings=found.rankings, examples=split, tiles=tiles, store=store
    )
    return page.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Finds tags that are not closed, and everything that a browser would fetch."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data")]
        assert tag != "link" and not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_everything_is_there_and_nothing_is_fetched(tmp_path: Path) -> None:
    split = examples(30, captions=2)
    page = write(tmp_path / "report", split)
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert all(re.match(r"data:image/(png|jpeg);base64,|#", found) for found in parser.fetched)
    assert "url(" not in page and "<script" not in page and "@import" not in page
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["checkpoint_sha256"] in page and report["protocol"]["queries"] in page
    assert f"{report['t2v/R@1']:.1f}" in page and report["post_processing"]["dsl"] in page
    assert "any caption" in page and "dual softmax" in page
    for id_ in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{id_}"' in page


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    split = examples(12)
    for name in ("one", "two"):
        write(tmp_path / name, split)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.usefixtures("blank_plots")
def test_an_older_report_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "stray.png").write_bytes(b"old")
    write(folder, examples(5))
    assert {path.name for path in folder.iterdir()} == FILES


@pytest.mark.usefixtures("blank_plots")
def test_a_failure_leaves_the_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "report"
    write(folder, examples(5))
    before = (folder / "report.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("engine.report.report.write_queries", full)
    with pytest.raises(OSError, match="no space"):
        write(folder, examples(6))
    assert (folder / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.usefixtures("blank_plots")
def test_foreign_text_is_escaped(tmp_path: Path) -> None:
    made = ExamplesBuilder()
    bad = '</p><script>alert("x")</script>\x07 \u202e'
    for number in range(8):
        made.add(f"<img src=x>{number}", f"{bad} {number}")
    page = write(tmp_path / "report", made.build(), skill=-3, dataset='<i>"&', settings={"a": bad})
    assert "<script" not in page and "<img src=x" not in page and "<i>" not in page and "\x07" not in page
    assert "&lt;script&gt;" in page and "<bdi>" in page


@pytest.mark.usefixtures("blank_plots")
def test_a_script_in_a_caption_an_id_or_a_folder_name_is_text(tmp_path: Path) -> None:
    made = ExamplesBuilder()
    script = "<script>alert(1)"
    for number in range(8):
        made.add(f"id {script} {number}", f"caption {script} {number}")
    folder = tmp_path / f"folder {script}"
    checkpoint, missing = str(folder / "pytorch_model.bin.0"), [f"missing {script}"]
    page = write(
        folder, made.build(), skill=-3, checkpoint=checkpoint, missing=missing, comparable=False,
        videos_of_benchmark=9, selected_on=script, post_processing={f"form {script}": script},
    )  # fmt: skip
    texts: list[str] = []
    parser = Balance()
    parser.handle_data = texts.append  # type: ignore[method-assign]
    parser.feed(page)
    assert "<script" not in page and not parser.open
    shown = "".join(texts)
    for text in (f"id {script} 3", f"caption {script} 3", checkpoint, missing[0], f"form {script}"):
        assert text in shown, text


def test_chinese_captions_are_marked_and_counted_in_characters(tmp_path: Path) -> None:
    page = write(tmp_path / "report", examples(20, texts=CHINESE), skill=-2, language="chinese")
    assert CHINESE[0] in page and 'lang="zh-CN"' in page and "number of characters" in page
    report = (tmp_path / "report" / "report.json").read_text(encoding="utf-8")
    assert CHINESE[0] in report


@pytest.mark.usefixtures("blank_plots")
def test_missing_videos_are_a_banner(tmp_path: Path) -> None:
    split = examples(5)
    page = write(tmp_path / "a", split, videos_of_benchmark=7, comparable=False, missing=["gone<1>", "gone2"])
    assert "Not comparable" in page and "gone&lt;1&gt;" in page and "2 are absent" in page
    assert "Not comparable" not in write(tmp_path / "b", split)


@pytest.mark.usefixtures("blank_plots")
def test_a_choice_on_the_test_list_is_said(tmp_path: Path) -> None:
    page = write(tmp_path / "report", examples(5), epoch=2, selected_on="test", selected_epoch=2)
    assert "which is too optimistic" in page and "<dt>Epoch</dt><dd>3</dd>" in page


@pytest.mark.usefixtures("blank_plots")
def test_equal_captions_are_counted_and_ranked(tmp_path: Path) -> None:
    made = ExamplesBuilder()
    for video in range(6):
        made.add(f"v{video}", "a man is singing" if video < 3 else f"caption {video}")
    page = write(tmp_path / "report", made.build())
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["equal_captions"] == {
        "texts": 1,
        "captions": 3,
        "videos": 3,
        "some": [{"caption": "a man is singing", "captions": 3, "videos": 3}],
    }
    assert report["equal_captions/t2v/R@1"] >= report["t2v/R@1"]
    assert "equal captions all right" in page


def jpeg(shade: int) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((90, 300, 3), shade, dtype=np.uint8))
    assert done
    return data.tobytes()


def published_store(path: Path, frames: dict[str, list[bytes]]) -> FrameStore:
    """A store without a manifest, as the published ones are."""
    with lmdb.open(str(path), map_size=1 << 28) as environment, environment.begin(write=True) as txn:
        for video, shown in frames.items():
            for number, data in enumerate(shown):
                txn.put(f"{video}_{number}".encode(), data)
    return FrameStore(path)


@pytest.mark.usefixtures("blank_plots")
def test_a_broken_or_missing_video_is_a_grey_field(tmp_path: Path) -> None:
    frames = {f"v{video}": [jpeg(20 * video)] * 6 for video in range(2, 8)}
    frames["v0"] = [jpeg(200)[:100]] * 6  # v1 is missing
    frames["v2"] = [jpeg(200)[:100], *[jpeg(9)] * 5]
    store = published_store(tmp_path / "lmdb", frames)
    page = write(tmp_path / "report", examples(8), skill=-3, store=store)
    assert "frames are broken in the frame store" in page
    assert "video is not in the frame store" in page
    assert '<div class="gone">broken</div>' in page
    assert page.count("data:image/jpeg") > 20


def test_a_large_split_stays_under_ten_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [cv2.imencode(".jpg", rng.integers(0, 255, (240, 240, 3), dtype=np.uint8))[1].tobytes()] * 4
    split = examples(120, captions=3, texts=("很长的句子" * 400,))
    store = published_store(tmp_path / "lmdb", {f"v{video}": noise for video in range(120)})
    write(tmp_path / "report", split, skill=-3, store=store)
    assert (tmp_path / "report" / "report.html").stat().st_size < 10_000_000


def test_thumbnails_are_small_and_never_larger_than_the_picture() -> None:
    for shape, side in (((90, 300, 3), SIDE), ((10, 20, 3), 20)):
        data = base64.b64decode(thumbnail(np.zeros(shape, dtype=np.uint8)).split(",")[1])
        picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and max(picture.shape[:2]) == side


def test_the_heat_map_shows_right_pairs_on_the_diagonal() -> None:
    split = examples(150, captions=2)
    matrix = scores(split, skill=100)
    shown = sample_scores(MatrixTiles(matrix, tile=(64, 64)), split.video_of_caption)
    assert shown.shape == (48, 48) and (shown.argmax(axis=1) == np.arange(48)).all()
    assert np.isin(shown, matrix).all()


def test_one_caption_and_one_video(tmp_path: Path) -> None:
    page = write(tmp_path / "report", examples(1))
    assert "Every caption finds its own video first" in page


@pytest.mark.usefixtures("blank_plots")
def test_ranks_come_back_from_the_file(tmp_path: Path) -> None:
    split = examples(9, captions=2)
    found = measured(split, scores(split, skill=0.5))[0]
    write(tmp_path / "report", split, skill=0.5)
    queries = read_queries(tmp_path / "report" / "queries.jsonl")
    for ranks, direction in ((found.rankings.t2v, queries.t2v), (found.rankings.v2t, queries.v2t)):
        expected = zip(ranks.expected.tolist(), ranks.tied.tolist(), strict=True)
        assert list(direction.values()) == list(expected)


@pytest.mark.parametrize("line", ["{", '{"direction": "t2v", "video": "v", "rank": 1}', "[]", '"t2v"'])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text(
        '{"direction": "v2t", "video": "v", "rank": 1}\n' + line + "\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 2: not a query"):
        read_queries(tmp_path / "queries.jsonl")
