"""`Retriever`: settings, encoding, searching; the example of the documentation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from modules.heads.hmmc import hmmc_similarity
from search import QueryError, Retriever, VideoIndex, VideoIndexError, index_videos
from search.clips import ClipError, picture_of_file
from search.model_identity import model_config, model_of_index, settings_record
from tests.search.conftest import COLOURS, coloured, write_model


@pytest.fixture
def index(retriever: Retriever, videos: Path, tmp_path: Path) -> Path:
    report = index_videos(retriever, tmp_path / "index", video_dir=videos, engine="exact", quiet=True)
    assert (report.listed, report.added, dict(report.failed)) == (4, 4, {})
    return tmp_path / "index"


def test_settings_come_from_the_file_beside_the_checkpoint_and_arguments_win(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    retriever = Retriever.from_checkpoint(checkpoint, max_frames=3, top_frames=1)
    assert (retriever.frames, retriever.config.top_frames, retriever.config.use_temp) == (3, 1, True)
    (message,) = caplog.messages
    assert (
        message == f"--max_frames 3 is used, although {checkpoint.parent / 'config.json'} says --max_frames 4"
    )
    with pytest.raises(ValueError, match="another --temporal_layers"):
        Retriever.from_checkpoint(checkpoint, temporal_layers=2)
    with pytest.raises(ValueError, match="no such file"):
        Retriever.from_checkpoint(checkpoint.with_name("absent"))


def test_a_part_of_the_checkpoint_is_left_out_only_if_a_flag_says_so(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where an evaluation without --use_temp has replaced the settings beside the checkpoint."""
    settings = json.loads((checkpoint.parent / "config.json").read_text(encoding="utf-8"))
    settings |= {"use_temp": False, "do_train": False, "do_eval": True}
    moved = Path(shutil.copy(checkpoint, tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match="has a temporal transformer.* give --use_temp, or --no-use_temp"):
        Retriever.from_checkpoint(moved)
    retriever = Retriever.from_checkpoint(moved, use_temp=False)
    assert retriever.identity["use_temp"] is False and "trained with --use_temp" in caplog.text
    assert Retriever.from_checkpoint(moved, use_temp=True).identity["use_temp"] is True


def test_vectors_are_units_and_the_same_each_time(retriever: Retriever, videos: Path) -> None:
    texts = retriever.encode_text(["a man is singing", "a dog"])
    clip = retriever.encode_video(videos / "red.mp4")
    assert texts.shape == (2, 64) and texts.dtype == np.float32
    assert clip.video.shape == (64,) and clip.frames.shape == (4, 64)
    for vectors in (texts, clip.video, clip.frames):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(clip.video, retriever.encode_video(videos / "red.mp4").video)
    assert clip.times[0] == 0 and list(clip.times) == sorted(clip.times)
    assert clip.duration == pytest.approx(1.6, abs=0.1)


def test_scores_are_those_of_evaluation(retriever: Retriever, index: Path, videos: Path) -> None:
    names = {"red.mp4", "green.mp4", "blue.mp4", "more/grey.mp4"}
    found = retriever.search(index, "a red picture")
    assert {hit.video_id for hit in found} == names
    text = torch.from_numpy(retriever.encode_text(["a red picture"]))
    for hit in found:
        clip = retriever.encode_video(videos / hit.video_id)
        video, frames = torch.from_numpy(clip.video)[None], torch.from_numpy(clip.frames)[None]
        expected = hmmc_similarity(text, video, frames, top_frames=2, logit_scale=1.0)
        assert hit.score == pytest.approx(float(expected), abs=2e-3)  # features are kept in half precision
        best = int(np.argmax(clip.frames @ text[0].numpy()))
        assert hit.moments[0].score == max(moment.score for moment in hit.moments)
        assert hit.moment in (clip.times[best], hit.moments[0].seconds)
        assert len(hit.moments) == 2 and hit.path == str((videos / hit.video_id).resolve())
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


@pytest.mark.parametrize("name", COLOURS)
def test_a_video_and_its_frames_find_themselves(
    name: str, retriever: Retriever, index: Path, videos: Path, tmp_path: Path
) -> None:
    copy = coloured(tmp_path / "copy.mp4", COLOURS[name])
    assert name in retriever.search(index, video=copy, top=1).hits[0].video_id
    picture = np.broadcast_to(np.array(COLOURS[name][::-1], np.uint8), (48, 64, 3)).copy()
    cv2.imwrite(str(tmp_path / "picture.png"), picture)
    hits = retriever.search(index, image=tmp_path / "picture.png", top=2, frame_weight=50, top_frames=1).hits
    assert name in hits[0].video_id


def test_a_transparent_picture_is_searched_for_on_white(tmp_path: Path) -> None:
    expected = np.full((48, 64, 3), 255, np.uint8)
    expected[10:20, 10:20] = (220, 30, 30)
    picture = np.zeros((48, 64, 4), np.uint8)  # hidden black, and a red square
    picture[10:20, 10:20] = (30, 30, 220, 255)
    cv2.imwrite(str(tmp_path / "clear.png"), picture)
    np.testing.assert_array_equal(picture_of_file(tmp_path / "clear.png"), expected)
    palette = Image.new("P", (64, 48))
    palette.putpalette([0, 0, 0, 220, 30, 30])
    palette.paste(1, (10, 10, 20, 20))
    palette.save(tmp_path / "palette.png", transparency=0)
    np.testing.assert_array_equal(picture_of_file(tmp_path / "palette.png"), expected)


def test_similar_leaves_the_video_itself_out(retriever: Retriever, index: Path) -> None:
    found = retriever.similar(index, "red.mp4", top=2)
    assert len(found) == 2 and "red.mp4" not in {hit.video_id for hit in found}
    with pytest.raises(VideoIndexError, match="no video 'absent'"):
        retriever.similar(index, "absent")


def test_what_is_excluded_loses(retriever: Retriever, index: Path) -> None:
    plain = {hit.video_id: hit.score for hit in retriever.search(index, "a dog")}
    less = {hit.video_id: hit.score for hit in retriever.search(index, "a dog", exclude="snow")}
    assert plain.keys() == less.keys() and plain != less
    query, _ = retriever.query_vector("a dog", exclude=["snow", " "])
    dog, snow = retriever.encode_text(["a dog", "snow"])
    expected = dog - 0.5 * snow
    np.testing.assert_allclose(query, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), (" \n\t", "empty"), ("\x00\x1b", "empty"), ("a" * 10_000, "10,000 characters")],
)
def test_queries_that_say_nothing_or_too_much(
    text: str, message: str, retriever: Retriever, index: Path
) -> None:
    with pytest.raises(QueryError, match=message):
        retriever.search(index, text)


def test_remarks_tell_of_other_languages_and_cut_texts(retriever: Retriever, index: Path) -> None:
    assert retriever.search(index, "a man is singing").remarks == ()
    assert "another language" in retriever.search(index, "一个男人在唱歌").remarks[0]
    assert "no letters" in retriever.search(index, "\U0001f436\U0001f3c2").remarks[0]
    assert retriever.search(index, "dog " * 100).remarks == (
        "the query has more than the 30 tokens that the model reads; its end was left out",
    )
    short = retriever.search(index, "一个男人在舞台上唱歌跳舞弹吉他").remarks
    assert len(short) == 2 and "a letter of another language counts several times" in short[1]
    assert retriever.search(index, "a\x00 \x07dog").hits == retriever.search(index, "a dog").hits


def test_an_index_of_another_model_is_refused(retriever: Retriever, index: Path, tmp_path: Path) -> None:
    other = Retriever.from_checkpoint(write_model(tmp_path / "other", seed=1))
    with pytest.raises(VideoIndexError, match="another model: checkpoint_sha256"):
        other.search(index, "a dog")
    with pytest.raises(VideoIndexError, match="another model"):
        index_videos(other, index, video_dir=tmp_path / "videos", quiet=True)
    assert len(retriever.search(index, "a dog")) == 4


def test_the_model_of_an_index_is_found_again(index: Path, checkpoint: Path, retriever: Retriever) -> None:
    again = Retriever.for_index(index, device="cpu")
    assert again.identity["hash"] == retriever.identity["hash"]
    assert again.search(index, "a dog").hits == retriever.search(index, "a dog").hits


def test_a_model_name_is_no_path_though_a_folder_has_that_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy").mkdir()
    config = model_config(checkpoint, settings={"clip_model": "toy"})
    record = settings_record(config)
    assert (record["clip_model"], record["pretrained_text"]) == ("toy", config.pretrained_text)
    # An index that a former version made holds the path.
    former = record | {"clip_model": str(tmp_path / "toy")}
    assert model_of_index(checkpoint, former).clip_model == "toy"
    config = model_config(checkpoint, settings={"clip_model": "small.json"})
    assert settings_record(config)["clip_model"] == str(tmp_path / "small.json")


def test_a_deleted_video_is_missing_and_nothing_breaks(
    retriever: Retriever, index: Path, videos: Path
) -> None:
    (videos / "red.mp4").unlink()
    assert {hit.video_id: hit.missing for hit in retriever.search(index, "a dog")} == {
        "red.mp4": True,
        "green.mp4": False,
        "blue.mp4": False,
        "more/grey.mp4": False,
    }


@pytest.mark.parametrize(
    "query",
    [{"text": 5}, {"text": ["a dog"]}, {"text": b"a dog"}, {"image": 5}, {"video": ["a.mp4"]}]
    + [{"text": "a dog", **more} for more in ({"top": "5"}, {"top": 2.5}, {"frame_weight": "1"})]
    + [{"text": "a dog", **more} for more in ({"top_frames": "2"}, {"exclude": 5}, {"exclude": [None]})],
)
def test_values_of_another_type_are_wrong_queries(
    query: dict[str, Any], retriever: Retriever, index: Path
) -> None:
    with pytest.raises(QueryError):
        retriever.search(index, **query)


def test_other_arguments_of_another_type_are_told_too(retriever: Retriever, index: Path) -> None:
    for call in (
        lambda: retriever.search(5, "a dog"),  # type: ignore[arg-type]
        lambda: retriever.similar(index, 5),  # type: ignore[arg-type]
        lambda: retriever.encode_text("a dog"),
        lambda: retriever.encode_text([5]),  # type: ignore[list-item]
        lambda: retriever.encode_video(5),  # type: ignore[arg-type]
        lambda: retriever.encode_picture(np.zeros((4, 4), np.uint8)),
        lambda: retriever.encode_picture([[0]]),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError):
            call()


def test_files_that_are_no_video_and_no_picture(retriever: Retriever, index: Path, tmp_path: Path) -> None:
    (tmp_path / "zip.mp4").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ClipError):
        retriever.search(index, video=tmp_path / "zip.mp4")
    with pytest.raises(ClipError, match="picture"):
        retriever.search(index, image=tmp_path / "zip.mp4")
    with pytest.raises(ClipError, match="missing"):
        retriever.encode_video(tmp_path / "absent.mp4")


def test_thumbnails_are_jpegs_of_the_frame_asked_for(index: Path) -> None:
    with VideoIndex(index) as opened:
        first, last = (opened.thumbnail("red.mp4", frame=frame) for frame in (0, 3))
        assert first and last and opened.thumbnail("absent") is None
        pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (first, last)]
        assert pictures[0].mean() < pictures[1].mean()
