"""Engines: the same results on the same data, through additions and removals."""

from __future__ import annotations

import builtins
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from search import VideoIndex, VideoIndexError, engines
from search.engines import ExactEngine, faiss_engine, open_engine
from search.engines.faiss_engine import FaissEngine, kind_for
from search.index_writer import IndexWriter
from search.searching import find
from tests.search.synthetic import WIDTH, features, fill, settings, unit

FLAT: dict[str, Any] = {"engine_options": {"kind": "flat"}}
OPTIONS: dict[str, Any] = {"top": 10, "top_frames": 2, "frame_weight": 1.0, "candidates": 50}


def queries(count: int = 40) -> np.ndarray:
    _, frames = features(400)
    rng = np.random.default_rng(5)
    return unit(frames[:count, 0] + 0.7 * unit(rng.standard_normal((count, WIDTH)))).astype(np.float32)


def ids(folder: Path, *, candidates: int = 50, **options: Any) -> list[list[str]]:
    wanted = {**OPTIONS, "candidates": candidates}
    with VideoIndex(folder, **options) as index:
        return [[hit.video_id for hit in find(index, query, **wanted)] for query in queries()]


def same(first: list[list[str]], second: list[list[str]]) -> float:
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


def test_faiss_finds_what_exhaustive_scoring_finds(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 400, **FLAT)
    expected = ids(folder, engine="exact")
    assert same(ids(folder), expected) >= 0.99


def test_faiss_finds_the_same_on_several_threads(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 400, **FLAT)
    rows = []
    with VideoIndex(folder) as index:
        assert isinstance(index.engine, FaissEngine)
        for threads in (1, 3):
            index.engine._threads = threads
            rows.append([index.engine.candidates(query, 30).tolist() for query in queries()])
    assert rows[0] == rows[1]


def test_a_small_index_is_scored_whole_and_a_large_one_by_faiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    monkeypatch.setattr(engines, "SCORE_ALL_UP_TO", 300)
    folder = fill(tmp_path / "index", 300)
    with VideoIndex(folder) as index:
        assert isinstance(index.engine, ExactEngine) and not (folder / "faiss").exists()
        fill(folder, 100, seed=1)
        index.refresh()
        assert isinstance(index.engine, FaissEngine) and index.engine.kind == "flat"
    assert same(ids(folder), ids(folder, engine="exact")) >= 0.99


@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq8", "pq4"])
def test_every_kind_of_faiss_index_keeps_up_with_changes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    monkeypatch.setattr(faiss_engine, "_MIN_TRAINING_ROWS", {})
    folder = fill(tmp_path / "index", 400, engine_options={"kind": kind})
    fill(folder, 100, seed=1, engine_options={"kind": kind})
    with IndexWriter(folder) as writer:
        assert writer.remove([f"0-{number}" for number in range(20)]) == 20
        writer.finish()
    assert next((folder / "faiss").glob(f"sum-*-{kind}.index"))
    # HNSW is approximate: more candidates make up for it, nearly.
    exact, found = ids(folder, engine="exact"), ids(folder, candidates=200 if kind == "hnsw" else 50)
    places = [len(set(a) & set(b)) / len(a) for a, b in zip(exact, found, strict=True)]
    assert np.mean(places) >= (0.95 if kind == "hnsw" else 0.999)
    assert not {name for names in found for name in names} & {f"0-{number}" for number in range(20)}


def test_what_came_in_after_the_last_save_is_found_too(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 300, **FLAT)
    fill(folder, 100, seed=1, finish=False, **FLAT)  # as after a kill
    assert same(ids(folder), ids(folder, engine="exact")) >= 0.99


def test_so_few_videos_that_no_quantiser_can_be_trained(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 5, engine_options={"kind": "sq8"})
    assert ids(folder) == ids(folder, engine="exact")
    fill(folder, 295, seed=1, engine_options={"kind": "sq8"})
    assert next((folder / "faiss").glob("sum-*-sq8.index"))


def test_faiss_files_of_a_catalogue_that_was_lost_are_not_used(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 300, **FLAT)
    (folder / "catalog.sqlite").unlink()
    fill(folder, 400, seed=1, **FLAT)  # other videos in the same rows
    assert same(ids(folder), ids(folder, engine="exact")) >= 0.99


def test_an_engine_that_could_not_take_up_changes_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "index", 20, engine="exact")

    def away(*_: object) -> bool:
        raise ConnectionError("no server")

    with VideoIndex(folder) as index:
        assert len(find(index, queries(1)[0], **OPTIONS)) == 10
        fill(folder, 380, seed=1, engine="exact")
        with monkeypatch.context() as patch:
            patch.setattr(ExactEngine, "update", away)
            with pytest.raises(ConnectionError):
                index.refresh()
        found = [[hit.video_id for hit in find(index, query, **OPTIONS)] for query in queries()]
    assert found == ids(folder)


@pytest.mark.parametrize("harm", ["cut", "remove", "nonsense"])
def test_a_broken_faiss_file_is_made_again(harm: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 300, engine_options={"kind": "flat"})
    expected = ids(folder)
    path = next((folder / "faiss").glob("sum-*.index"))
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000] if harm == "cut" else b"nonsense" * 100)
    assert ids(folder) == expected


def test_qdrant_and_faiss_give_the_same_results(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    pytest.importorskip("qdrant_client", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 400, **FLAT)
    assert ids(folder, engine="qdrant", url=":memory:") == ids(folder, engine="faiss")


def test_a_qdrant_collection_on_disk_follows_the_index(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client", reason="needs requirements-search.txt")
    url = str(tmp_path / "qdrant")
    options = {"engine": "qdrant", "engine_options": {"url": url}}
    folder = fill(tmp_path / "index", 200, **options)
    fill(folder, 100, seed=1, **options)
    with IndexWriter(folder) as writer:
        writer.remove([f"0-{number}" for number in range(50)])
        writer.finish()
    assert ids(folder) == ids(folder, engine="exact")
    with VideoIndex(folder) as index:
        client = index.engine._client  # type: ignore[attr-defined]
        assert client.count(index.engine.collection).count == 250  # type: ignore[attr-defined]


def test_compacting_renumbers_for_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    monkeypatch.setattr("search.index_writer._COMPACT_FROM", 10)
    folder = fill(tmp_path / "index", 100)
    before = VideoIndex(folder)
    vector = before.vector("0-99")
    with IndexWriter(folder) as writer:
        writer.remove([f"0-{number}" for number in range(90)])
        writer.finish()
        assert writer.rows == 10
    assert before.refresh()
    np.testing.assert_array_equal(before.vector("0-99"), vector)
    before.close()
    with VideoIndex(folder) as index:
        assert len(index) == 10 and index.info()["removed_rows"] == 0
    assert sorted({name for names in ids(folder) for name in names}) == [f"0-{n}" for n in range(90, 100)]
    assert len(list(folder.glob("*.f16"))) == 2


def test_servers_that_do_not_answer_and_unknown_engines_are_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "index", 10, engine="exact")
    with VideoIndex(folder) as index:  # noqa: SIM117
        with pytest.raises(VideoIndexError, match="choose from faiss, qdrant, exact"):
            open_engine("other", folder, index.features, index.catalog, {})
    pytest.importorskip("qdrant_client", reason="needs requirements-search.txt")
    with VideoIndex(folder, engine="qdrant") as index, pytest.raises(VideoIndexError, match="give --url"):
        find(index, queries(1)[0], **OPTIONS)
    with VideoIndex(folder, engine="qdrant", url="http://127.0.0.1:9") as index:  # noqa: SIM117
        with pytest.raises(VideoIndexError, match="127.0.0.1:9: the Qdrant server cannot be used"):
            find(index, queries(1)[0], **OPTIONS)


@pytest.mark.parametrize(("engine", "package"), [("faiss", "faiss"), ("qdrant", "qdrant_client")])
def test_an_absent_library_is_named_with_what_to_install(
    engine: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "index", 10, engine="exact", **FLAT)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    url = "http://127.0.0.1:9" if engine == "qdrant" else None
    with VideoIndex(folder, engine=engine, url=url) as index:  # noqa: SIM117
        with pytest.raises(UserError, match="pip install -r requirements-search.txt"):
            find(index, queries(1)[0], **OPTIONS)


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    with IndexWriter(tmp_path / "index", settings()) as writer:
        writer.finish()
    assert ids(tmp_path / "index") == [[]] * 40


@pytest.mark.parametrize("engine", ["exact", "faiss", "qdrant"])
def test_an_open_engine_takes_up_changes_while_threads_search(engine: str, tmp_path: Path) -> None:
    modules = {"faiss": "faiss", "qdrant": "qdrant_client"}
    if engine in modules:
        pytest.importorskip(modules[engine], reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 100, engine="exact")
    url = ":memory:" if engine == "qdrant" else None
    with VideoIndex(folder, engine=engine, url=url) as index, ThreadPoolExecutor(4) as threads:
        for seed in range(1, 5):
            searches = [threads.submit(find, index, query, **OPTIONS) for query in queries(10)]
            fill(folder, 40, seed=seed, engine="exact")
            with IndexWriter(folder) as writer:
                writer.remove([f"{seed}-0", f"0-{seed}"])
            # A running search searches again, so that other videos replace the two that were just removed.
            assert [len(search.result()) for search in searches] == [10] * 10
        found = [[hit.video_id for hit in find(index, query, **OPTIONS)] for query in queries()]
        assert len(index) == 100 + 4 * 38
    assert found == ids(folder, engine="exact")


def test_codes_of_eight_bits_have_room_for_values_that_were_not_in_the_sample(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 300, engine_options={"kind": "sq8"})
    fill(folder, 2700, seed=1, engine_options={"kind": "sq8"})
    exact, found = ids(folder, engine="exact"), ids(folder, candidates=100)
    assert np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(exact, found, strict=True)]) >= 0.99


def test_an_index_whose_settings_say_ivfpq_is_opened_with_codes_of_eight_bits(tmp_path: Path) -> None:
    sizes = (100_000, 100_001, 200_000, 200_001)
    assert [kind_for(rows, "auto") for rows in sizes] == ["flat", "sq8", "sq8", "pq4"]
    pytest.importorskip("faiss", reason="needs requirements-search.txt")
    folder = fill(tmp_path / "index", 300, engine_options={"kind": "ivfpq"})
    assert (
        next((folder / "faiss").glob("sum-*-sq8.index"))
        and same(ids(folder), ids(folder, engine="exact")) > 0.9
    )


def test_vectors_stay_those_of_their_videos_while_rows_are_added_and_moved(tmp_path: Path) -> None:
    folder = fill(tmp_path / "index", 60, engine="exact")
    kept = [f"0-{number}" for number in range(50, 60)]
    done = threading.Event()

    def look(index: VideoIndex) -> int:
        looks = 0
        while not (done.is_set() and looks):
            for name, vector in expected.items():
                np.testing.assert_array_equal(index.vector(name), vector)
            looks += 1
        return looks

    with VideoIndex(folder) as index, ThreadPoolExecutor(2) as threads:
        expected = {name: index.vector(name) for name in kept}
        lookers = [threads.submit(look, index) for _ in range(2)]
        try:
            with IndexWriter(folder) as writer:
                writer.remove([f"0-{number}" for number in range(50)])
                writer.compact()  # rows move
            for seed in range(1, 5):
                fill(folder, 10, seed=seed)
        finally:
            done.set()
        assert all(looker.result() for looker in lookers)
        assert index.snapshot().generation > 0
        with pytest.raises(VideoIndexError, match="no video '0-1' in the index"):
            index.vector("0-1")
