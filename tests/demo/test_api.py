"""The routes of the API: their answers, and the errors for wrong requests."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from demo.app import create_app
from search import Retriever, VideoIndex, VideoIndexError, index_videos
from tests.demo.conftest import LIMITS, ODD_ID, Served, client_of
from tests.search.conftest import write_model


def error_of(response: object, status: int) -> str:
    """The message of an error response."""
    assert response.status_code == status, response.text[:200]  # type: ignore[attr-defined]
    answer = response.json()  # type: ignore[attr-defined]
    assert list(answer) == ["error"] and "\n" not in answer["error"]
    return str(answer["error"])


def test_a_search_answers_with_hits_and_addresses(client: TestClient, served: Served) -> None:
    answer = client.get("/search", params={"q": "a red picture", "top": 3, "not": ["snow", "rain"]})
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {"hits", "remarks", "seconds", "model"} and len(found["hits"]) == 3
    assert str(served.folder) not in answer.text
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    for hit in found["hits"]:
        assert "path" not in hit and hit["missing"] is False
        assert hit["moment"] == hit["moments"][0]["seconds"]
        assert client.get(hit["video_url"]).content == (served.videos / hit["video_id"]).read_bytes()
        assert client.get(hit["thumbnail_url"]).content.startswith(b"\xff\xd8")


def test_it_is_the_search_of_the_library(client: TestClient, served: Served, retriever: Retriever) -> None:
    settings = {"top": 4, "frame_weight": 0.5, "top_frames": 1}
    hits = client.get("/search", params={"q": "blue", **settings}).json()["hits"]
    expected = retriever.search(served.index, "blue", **settings)
    assert [(hit["video_id"], hit["score"]) for hit in hits] == [(h.video_id, h.score) for h in expected]


def test_ids_with_slashes_and_any_letters(client: TestClient, served: Served) -> None:
    (hit,) = [
        hit for hit in client.get("/search?q=grey").json()["hits"] if hit["video_id"] == ODD_ID
    ]  # fmt: skip
    assert (
        hit["video_url"] == "/video/more/grey%20100%25%20%231%3F%20gr%C3%BC%C3%9Fe%20%E7%81%B0%E8%89%B2.mp4"
    )
    assert client.get(hit["video_url"]).status_code == 200
    for path in (quote(ODD_ID), quote(ODD_ID, safe="")):
        assert client.get(f"/videos/{path}").json()["video_id"] == ODD_ID
        assert len(client.get(f"/similar/{path}?top=2").json()["hits"]) == 2


def test_the_record_of_a_video(client: TestClient, served: Served) -> None:
    answer = client.get("/videos/red.mp4")
    video = answer.json()
    assert video["bytes"] == (served.videos / "red.mp4").stat().st_size and len(video["times"]) == 4
    assert video["missing"] is False and video["video_url"] == "/video/red.mp4"
    assert str(served.folder) not in answer.text


def test_similar_leaves_the_video_itself_out(client: TestClient) -> None:
    hits = client.get("/similar/red.mp4").json()["hits"]
    assert len(hits) == 3 and "red.mp4" not in {hit["video_id"] for hit in hits}


def test_health(client: TestClient, served: Served) -> None:
    answer = client.get("/health")
    assert answer.json() == {
        "status": "ok",
        "videos": 4,
        "language": "english",
        "engine": "exact",
        "frames": 4,
        "width": 64,
        "model": "trained",
        "frame_weight": 1.0,
        "top_frames": 2,
    }


def test_other_languages_and_emoji_get_a_remark(client: TestClient) -> None:
    (remark,) = client.get("/search", params={"q": "一只狗"}).json()["remarks"]
    assert "trained on English" in remark
    (remark,) = client.get("/search", params={"q": "🐕‍🦺"}).json()["remarks"]
    assert "no letters" in remark


def test_control_characters_are_dropped(client: TestClient) -> None:
    clean, dirty = (client.get("/search", params={"q": q}).json() for q in ("red dog", "red\x00\x1b dog\r\n"))
    assert dirty["hits"] == clean["hits"] and dirty["remarks"] == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query is empty"),
        ("q=", "the query is empty"),
        ("q=%20%00%0a", "the query is empty"),
        ("q=" + "a" * 10_000, "q: has 10,000 characters; give at most 1,000"),
        ("q=a&not=" + "a" * 1001, "not: has 1,001 characters; give at most 1,000"),
        ("q=a" + "&not=b" * 11, "not: give at most 10 texts"),
        ("q=a&top=0", "top '0': give a whole number from 1 to 1,000"),
        ("q=a&top=-3", "top '-3': give a whole"),
        ("q=a&top=1001", "top '1001': give a whole"),
        ("q=a&top=" + "9" * 5000, "give a whole number from 1 to 1,000"),
        ("q=a&top=nan", "top 'nan': give a whole"),
        ("q=a&top=1.5", "top '1.5': give a whole"),
        ("q=a&colour=red", "parameter 'colour': not known here; give some of top, frame_weight"),
        ("q=a&exclude=snow", "parameter 'exclude': not known here"),
        ("q=a&frame_weight=nan", "frame_weight 'nan': give a number from 0 to 100"),
        ("q=a&frame_weight=inf", "frame_weight 'inf': give a number from 0 to 100"),
        ("q=a&frame_weight=1e999", "frame_weight '1e999': give a number"),
        ("q=a&frame_weight=-1", "frame_weight '-1': give a number"),
        ("q=a&frame_weight=%0a%00x", "frame_weight '\\n\\x00x': give a number"),
        ("q=a&top_frames=0", "top_frames '0': give a whole number from 1 to 1,000"),
    ],
)
def test_wrong_values_get_one_line(query: str, message: str, client: TestClient) -> None:
    assert message in error_of(client.get(f"/search?{query}"), 400)


@pytest.mark.parametrize(
    "video_id",
    [
        "unknown.mp4",
        "",
        "..%2F..%2F..%2Fetc%2Fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "red.mp4%00",
        "%00",
        "..%5C..%5Cwindows%5Cwin.ini",
        "red.mp4/",
        ".%2Fred.mp4",
        "more%2F..%2Fred.mp4",
        "%ff%fe",
        "%ED%A0%80",
        "a" * 5000,
        "file:%2F%2F%2Fetc%2Fpasswd",
    ],
)
@pytest.mark.parametrize("route", ["video", "videos", "similar", "thumbnail"])
def test_no_id_reaches_other_files(route: str, video_id: str, client: TestClient) -> None:
    assert "not in the index" in error_of(client.get(f"/{route}/{video_id}"), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/search", "GET, POST"),
        ("POST", "/video/red.mp4", "GET, HEAD"),
        ("PUT", "/health", "GET"),
        ("BREW", "/similar/red.mp4", "GET"),
        ("OPTIONS", "/thumbnail/red.mp4", "GET"),
    ],
)
def test_other_methods_get_the_list_of_allowed_ones(
    method: str, path: str, allowed: str, client: TestClient
) -> None:
    response = client.request(method, path)
    assert error_of(response, 405) == f"method {method}: use {allowed}"
    assert response.headers["allow"] == allowed


def test_get_and_post_take_the_same_values(client: TestClient) -> None:
    empty = {"q": "a", "top": "", "frame_weight": "", "top_frames": "", "not": ""}
    plain = client.get("/search?q=a").json()["hits"]
    assert client.get("/search", params=empty).json()["hits"] == plain
    assert client.post("/search", data=empty).json()["hits"] == plain
    paths = ("/similar/red.mp4?q=a", "/videos/red.mp4?x=1", "/video/red.mp4?x", "/thumbnail/red.mp4?x=1")
    for path in ("/health?x=1", *paths):
        assert "not known here" in error_of(client.get(path), 400), path
    assert "parameter 'q': not known here" in error_of(client.post("/search?q=a", data={"q": "a"}), 400)


def test_unknown_routes_are_json_too(client: TestClient) -> None:
    assert error_of(client.get("/nothing"), 404) == "Not Found"


def test_the_documentation_names_every_route_and_error(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {path: set(methods) for path, methods in schema["paths"].items()} == {
        "/search": {"get", "post"},
        "/similar/{video_id}": {"get"},
        "/videos/{video_id}": {"get"},
        "/video/{video_id}": {"get"},
        "/thumbnail/{video_id}": {"get"},
        "/health": {"get"},
    }
    assert "422" not in json.dumps(schema) and "ValidationError" not in json.dumps(schema)
    posted = schema["paths"]["/search"]["post"]
    fields = posted["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(fields) == {"q", "not", "language", "top", "frame_weight", "top_frames", "image", "video"}
    assert {"400", "413", "415", "429", "503"} <= set(posted["responses"])
    assert client.get("/docs").status_code == 404


def test_an_index_of_another_model_is_refused_at_the_start(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Retriever.from_checkpoint(write_model(tmp_path_factory.mktemp("other"), seed=1), device="cpu")
    with pytest.raises(VideoIndexError, match="made by another model"):
        create_app(served.index, other)


def test_videos_that_another_process_indexes_are_found(scratch: Served, retriever: Retriever) -> None:
    with client_of(scratch, retriever, LIMITS) as client:
        assert client.get("/health").json()["videos"] == 4
        (scratch.videos / "again.mp4").write_bytes((scratch.videos / "red.mp4").read_bytes())
        index_videos(retriever, scratch.folder / "index", video_dir=scratch.videos, workers=1)
        assert (
            client.get("/videos/again.mp4").json()["sha256"] == client.get("/videos/red.mp4").json()["sha256"]
        )
        hits = client.get("/search?q=a").json()["hits"]
        assert [hit["copies"] for hit in hits if hit["video_id"] == "red.mp4"] == [["again.mp4"]]
        assert client.get("/health").json()["videos"] == 5


def test_an_index_that_is_deleted_is_503_and_no_video_of_it_is_served(
    scratch: Served, retriever: Retriever, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(scratch, retriever, LIMITS) as client:
        (scratch.folder / "index").rename(scratch.folder / "trash")
        for path in ("/health", "/search?q=a", "/similar/red.mp4", "/videos/red.mp4", "/video/red.mp4"):
            assert "cannot be reached" in error_of(client.get(path), 503), path
        assert "open the index again" in caplog.text


def test_errors_of_the_program_are_one_line_without_a_traceback(
    served: Served, retriever: Retriever, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret /etc/shadow")

    monkeypatch.setattr(Retriever, "search", broken)
    with client_of(served, retriever, LIMITS) as client:
        response = client.get("/search?q=a")
        assert "internal error" in error_of(response, 500) and "secret" not in response.text
        assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret /etc/shadow" in caplog.text


class ResponseHandlingException(Exception):
    """Like the exception of Qdrant's client."""

    __module__ = "qdrant_client.http.exceptions"


@pytest.mark.parametrize(
    "error", [ResponseHandlingException("refused"), VideoIndexError("/secret: gone"), OSError("/secret")]
)
def test_an_unreachable_engine_is_503(
    error: Exception, served: Served, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(served.index.engine), "candidates", unreachable)
    with client_of(served, retriever, LIMITS) as client:
        for path in ("/search?q=a", "/similar/red.mp4"):
            response = client.get(path)
            assert "cannot be reached; try again" in error_of(response, 503)
            assert response.headers["retry-after"] == "10" and "secret" not in response.text


def test_an_unreachable_qdrant_server_is_503(served: Served, retriever: Retriever) -> None:
    pytest.importorskip("qdrant_client", reason="needs requirements-search.txt")
    with VideoIndex(served.index.folder, engine="qdrant", url="http://127.0.0.1:1") as index:
        unreachable = Served(index, served.videos, served.folder)
        with client_of(unreachable, retriever, LIMITS) as client:
            assert "cannot be reached" in error_of(client.get("/search?q=a"), 503)
            health = client.get("/health").json()
            assert health["engine"] == "qdrant" and health["videos"] == 4
            assert client.get("/video/red.mp4").status_code == 200
