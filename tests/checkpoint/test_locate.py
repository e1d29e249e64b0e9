from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundle_writer import HEADER, table

from porting.checkpoint import open_checkpoint
from porting.checkpoint.locate import find_prefix
from porting.checkpoint.tf_bundle import open_bundle
from porting.errors import CheckpointError

EMPTY_INDEX = table({b"": HEADER})


def add(directory: Path, *names: str) -> None:
    for name in names:
        (directory / f"{name}.index").write_bytes(EMPTY_INDEX)
        (directory / f"{name}.data-00000-of-00001").touch()


def say(directory: Path, path: str) -> None:
    (directory / "checkpoint").write_text(
        f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "model.ckpt-1"\n'
    )


@pytest.mark.parametrize(
    "source",
    [
        "model.ckpt-1000",
        "model.ckpt-1000.index",
        "model.ckpt-1000.meta",
        "model.ckpt-1000.data-00000-of-00001",
        "model.ckpt-1000.data-00007-of-00064",
        "",
        "checkpoint",
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_prefix_file_and_directory_lead_to_the_prefix(tmp_path: Path, source: str, kind: type) -> None:
    add(tmp_path, "model.ckpt-1000", "model.ckpt-2000")
    say(tmp_path, "model.ckpt-1000")
    assert find_prefix(kind(tmp_path / source)) == tmp_path / "model.ckpt-1000"


def test_relative_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "model.ckpt-1")
    monkeypatch.chdir(tmp_path)
    assert find_prefix("model.ckpt-1") == Path("model.ckpt-1")
    assert find_prefix(".") == find_prefix("") == Path("model.ckpt-1")


def test_a_prefix_wins_over_a_directory_of_its_name(tmp_path: Path) -> None:
    add(tmp_path, "variables")
    (tmp_path / "variables").mkdir()
    assert find_prefix(tmp_path / "variables") == tmp_path / "variables"


def test_without_a_checkpoint_file_the_only_index_is_taken(tmp_path: Path) -> None:
    add(tmp_path, "model.ckpt-1000")
    (tmp_path / ".index").touch()
    assert find_prefix(tmp_path) == tmp_path / "model.ckpt-1000"


@pytest.mark.parametrize("content", ["", "\n" * 1000, 'model_checkpoint_path: ""', "msgpack \x00 \xff"])
def test_a_checkpoint_file_that_names_nothing_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "checkpoint").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match="a `checkpoint` file that names none"):
        find_prefix(tmp_path)
    add(tmp_path, "model.ckpt-1000")
    assert find_prefix(tmp_path) == tmp_path / "model.ckpt-1000"


def test_named_by_an_absolute_path_that_exists(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    add(tmp_path / "elsewhere", "model.ckpt-1")
    say(tmp_path / "here", str(tmp_path / "elsewhere" / "model.ckpt-1"))
    assert find_prefix(tmp_path / "here") == tmp_path / "elsewhere" / "model.ckpt-1"


@pytest.mark.parametrize(
    "named",
    [
        "/no/such/machine/model.ckpt-2",
        "gs://bucket/run/model.ckpt-2",
        "../../other/model.ckpt-2",
        "run/model.ckpt-2",
        "C:\\\\runs\\\\model.ckpt-2",
    ],
)
def test_named_by_a_path_of_another_machine(tmp_path: Path, named: str) -> None:
    add(tmp_path, "model.ckpt-1", "model.ckpt-2")
    say(tmp_path, named)
    assert find_prefix(tmp_path) == tmp_path / "model.ckpt-2"


def test_a_relative_path_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    add(tmp_path, "model.ckpt-1")
    say(tmp_path / "here", "../model.ckpt-1")
    with pytest.raises(CheckpointError, match="names a checkpoint that is not there"):
        find_prefix(tmp_path / "here")


def test_escapes_of_text_format(tmp_path: Path) -> None:
    add(tmp_path, 'm\u00fcde "x"')
    say(tmp_path, 'm\\303\\274de \\"\\x78\\"')
    assert find_prefix(tmp_path) == tmp_path / 'm\u00fcde "x"'


def test_named_checkpoint_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    add(tmp_path, "model.ckpt-200", "model.ckpt-1000")
    say(tmp_path, "/far/away/model.ckpt-3000")
    with pytest.raises(CheckpointError) as caught:
        find_prefix(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / 'checkpoint'} names a checkpoint that is not there" in message
    assert f"a file {tmp_path / 'model.ckpt-3000.index'}" in message
    assert "the directory has model.ckpt-200, model.ckpt-1000" in message
    assert "Copy the files model.ckpt-3000.*" in message


def test_several_without_a_checkpoint_file_are_listed_by_step(tmp_path: Path) -> None:
    add(tmp_path, "model.ckpt-1000", "model.ckpt-200", "other")
    with pytest.raises(CheckpointError) as caught:
        find_prefix(tmp_path)
    assert "holds 3 checkpoints, and no file `checkpoint` names the newest" in str(caught.value)
    assert "the directory has model.ckpt-200, model.ckpt-1000, other" in str(caught.value)


def test_long_listings_are_cut(tmp_path: Path) -> None:
    add(tmp_path, *(f"model.ckpt-{step}" for step in range(25)))
    with pytest.raises(CheckpointError, match=r"has model.ckpt-15, .*model.ckpt-24 and 15 more"):
        find_prefix(tmp_path)


def test_directory_without_any_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\n.*`checkpoint`.*\*\.index"):
        find_prefix(tmp_path)


@pytest.mark.parametrize(
    "source", ["model.ckpt-1001", "model.ckpt-1001.index", "model.ckpt-1001.data-00000-of-00001"]
)
def test_prefix_that_is_not_there_gets_the_nearest_names(tmp_path: Path, source: str) -> None:
    add(tmp_path, "model.ckpt-1000", "zzz")
    with pytest.raises(CheckpointError) as caught:
        find_prefix(tmp_path / source)
    assert f"there is no checkpoint {tmp_path / source}" in str(caught.value)
    assert f"a file {tmp_path / 'model.ckpt-1001.index'}" in str(caught.value)
    assert "the directory has model.ckpt-1000\n" in str(caught.value)


def test_prefix_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"a directory {tmp_path / 'nowhere'}, found no such directory"):
        find_prefix(tmp_path / "nowhere" / "model.ckpt-1")


def test_other_file_beside_a_checkpoint(tmp_path: Path) -> None:
    add(tmp_path, "model.ckpt-1")
    (tmp_path / "operative_config.gin").write_text("x = 1")
    with pytest.raises(CheckpointError, match=r"belongs to no TensorFlow checkpoint; .* has model.ckpt-1"):
        find_prefix(tmp_path / "operative_config.gin")


@pytest.mark.parametrize("source", ["model.ckpt-1", "", "sharded", "sharded-00000-of-00002"])
def test_v1_checkpoints_are_recognized(tmp_path: Path, source: str) -> None:
    say(tmp_path, "model.ckpt-1")
    for name in ("model.ckpt-1", "sharded-00000-of-00002", "sharded-00001-of-00002"):
        (tmp_path / name).write_bytes(EMPTY_INDEX)
    with pytest.raises(CheckpointError, match=r"old V1 format[\s\S]*save it again"):
        find_prefix(tmp_path / source)


def test_v1_checkpoint_of_tensorflow(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    tf.raw_ops.Save(filename=str(tmp_path / "v1.ckpt"), tensor_names=["a"], data=[tf.constant([1.0])])
    with pytest.raises(CheckpointError, match="old V1 format"):
        find_prefix(tmp_path / "v1.ckpt")


@pytest.mark.parametrize("kind", [str, Path])
def test_bucket_urls_say_how_to_download(kind: type) -> None:
    with pytest.raises(CheckpointError, match=r"gsutil -m cp 'gs://t5-data/small/model.ckpt-1000\*' \."):
        find_prefix(kind("gs://t5-data/small/model.ckpt-1000"))
    with pytest.raises(CheckpointError, match="local directory"):
        find_prefix("s3://bucket/model.ckpt-1000")


@pytest.mark.parametrize("source", ["nul\0byte", "x" * 5000, "~/no/such", "a" * 300 + "/b"])
def test_impossible_paths(source: str) -> None:
    with pytest.raises(CheckpointError):
        find_prefix(source)


def test_impossible_prefix_of_a_bundle() -> None:
    with pytest.raises(CheckpointError, match="cannot be read: embedded null byte"):
        open_bundle(Path("nul\0byte"))


def test_index_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "m.index").mkdir()
    with pytest.raises(CheckpointError, match=r"m.index cannot be read: it is a directory"):
        open_checkpoint(tmp_path / "m")


def test_index_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.index")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        open_checkpoint(tmp_path / "m")


def test_broken_and_circular_links(tmp_path: Path) -> None:
    (tmp_path / "m.index").symlink_to("m.index")
    (tmp_path / "n.index").symlink_to("gone")
    for name in ("m", "n", "m.index", "n.index"):
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("locked", ["m.index", "checkpoint", "."])
def test_missing_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str) -> None:
    add(tmp_path, "m")
    say(tmp_path, "m")
    if os.geteuid() != 0:
        (tmp_path / locked).chmod(0)
    else:
        # Permissions do not bind root, so the refusal has to be made up.
        original = Path.open

        def refuse(path: Path, *args: str, **options: str) -> object:
            if locked in (path.name, "."):
                raise PermissionError(13, "Permission denied")
            return original(path, *args, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", refuse)
    try:
        with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
            open_checkpoint(tmp_path)
    finally:
        (tmp_path / locked).chmod(0o700)
