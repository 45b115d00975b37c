"""Addresses and numbers of samples of shards."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from dataloaders.tar_shards.addresses import expand_braces, folder_and_name, shard_addresses, split_sources
from dataloaders.tar_shards.index import open_sources, write_index
from tests.dataloaders.tar_shards.http_server import serving
from tests.dataloaders.tar_shards.shards import HASTY, loader_of, order_of, shard_bytes, write_shards


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a/{08..11}.tar", ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]),
        ("{x,y}-{0..1}.tar", ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar"]),
        ("s3://b/{0..0}.tar", ["s3://b/0.tar"]),
    ],
)
def test_braces(text: str, expected: list[str]) -> None:
    assert expand_braces(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a{0..3.tar", "is not closed"),
        ("a{{0..3}}.tar", "is not closed, or stands in another"),
        ("a{3..0}.tar", "ends before it starts"),
        ("a{x}.tar", "neither"),
        ("a{0..99999999}.tar", "more than 10,000,000"),
        ("{0..9999}{0..9999}.tar", "at most 10,000,000"),
    ],
)
def test_wrong_braces(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand_braces(text)


def test_sources_and_addresses(tmp_path: Path) -> None:
    assert split_sources("a.tar:: b/") == ["a.tar", "b/"]
    with pytest.raises(UserError, match="a source is empty"):
        split_sources("a.tar::")
    with pytest.raises(UserError, match="no shell command"):
        shard_addresses("pipe:cat a.tar")
    with pytest.raises(UserError, match=r"compressed shards .* unpack"):
        shard_addresses("a.tar.gz")
    with pytest.raises(UserError, match="no shard; give a list"):
        shard_addresses(str(tmp_path))
    expected = write_shards(tmp_path, (1, 1))
    assert shard_addresses(str(tmp_path)) == shard_addresses(f"{tmp_path}/*.tar") == expected
    assert folder_and_name("https://h/a/b.tar?token=x/y") == ("https://h/a", "b.tar")


def test_sizes_come_from_the_index_or_are_counted(tmp_path: Path) -> None:
    said: list[str] = []
    write_shards(tmp_path / "a", (2, 3))
    write_shards(tmp_path / "b", (1,), index=False)
    text = f"{tmp_path}/a/{{000..001}}.tar::{tmp_path}/b/000.tar"
    first, second = open_sources(text, "1::0.5", say=said.append)
    assert (first.samples, first.weight, second.samples, second.weight) == ((2, 3), 1.0, (1,), 0.5)
    assert first.exact and second.exact and "counting the samples of 1 shards" in said[0]


def test_guessed_sizes(tmp_path: Path) -> None:
    write_shards(tmp_path, (2, 3), index=False)
    (source,) = open_sources(f"{tmp_path}/*.tar", None, samples_per_epoch=5)
    assert source.samples == (3, 3) and not source.exact


@pytest.mark.parametrize("weights", ["1", "1::0", "1::x", "1::-1", "1::inf", "1::nan"])
def test_wrong_weights(weights: str, tmp_path: Path) -> None:
    write_shards(tmp_path, (1,))
    with pytest.raises(UserError, match="--shard_weights .*: give 2 numbers above 0"):
        open_sources(f"{tmp_path}::{tmp_path}", weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "must be"),
        ('{"000.tar": "2"}', "must be"),
        ('{"000.tar": -2}', "must be"),
        ('{"other.tar": 2}', "does not list 000.tar; count anew"),
        ('{"000.tar": 0}', "hold no sample"),
    ],
)
def test_wrong_indices(content: str, message: str, tmp_path: Path) -> None:
    write_shards(tmp_path, (1,))
    (tmp_path / "sizes.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_sources(str(tmp_path / "000.tar"), None)


def test_a_broken_shard_cannot_be_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(shard_bytes(0, 2)[:1000])
    with pytest.raises(UserError, match="a.tar: cut off after .* leave it out"):
        open_sources(str(tmp_path / "a.tar"), None)


def test_remote_shards_need_an_index_or_a_number() -> None:
    with serving({"a/0.tar": shard_bytes(0, 2)}) as server:
        address = f"{server.address}/a/0.tar"
        with pytest.raises(UserError, match=r"has no sizes.json; write one .*--samples_per_epoch"):
            open_sources(address, None, patience=HASTY)
        assert open_sources(address, None, samples_per_epoch=2, patience=HASTY)[0].samples == (2,)
        server.files["a/sizes.json"] = b'{"0.tar": 2}'
        assert open_sources(address, None, patience=HASTY)[0].samples == (2,)
        server.refusals = 100
        with pytest.raises(UserError, match=r"a/sizes.json: byte 0: .*gave up after 3 tries"):
            open_sources(address, None, patience=HASTY)


S3_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket `toy-data` on a real S3-compatible server, found as users say it: by the environment."""
    server_module = pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    for name in S3_NAMES:
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("toy-data")
    yield system
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_from_s3(s3: Any, tmp_path: Path) -> None:
    sizes = (3, 5)
    for path in write_shards(tmp_path, sizes, index=False):
        s3.put_file(path, f"toy-data/set/{Path(path).name}")
    folder = "s3://toy-data/set"
    with pytest.raises(UserError, match="has no sizes.json"):
        open_sources(f"{folder}/{{000..001}}.tar", None, patience=HASTY)
    assert write_index(folder, {"000.tar": 3, "001.tar": 5}) == f"{folder}/sizes.json"
    assert json.loads(s3.cat_file("toy-data/set/sizes.json")) == {"000.tar": 3, "001.tar": 5}
    (remote,) = open_sources(folder, None, patience=HASTY)
    assert remote.addresses == (f"{folder}/000.tar", f"{folder}/001.tar") and remote.samples == sizes
    (local,) = open_sources(str(tmp_path), None)
    one, other = (list(loader_of(order_of([source], batch_size=4))) for source in (remote, local))
    assert [batch["index"].tolist() for batch in one] == [batch["index"].tolist() for batch in other]
    assert all((a["frames"] == b["frames"]).all() for a, b in zip(one, other, strict=True))
    s3.rm("toy-data/set/001.tar")
    loader = loader_of(order_of([remote], batch_size=4))
    assert sum(int(batch["replaced"].sum()) for batch in loader) == 5
    assert sum(loader.faults.values()) == 5 and "NoSuchKey" in str(loader.faults)
