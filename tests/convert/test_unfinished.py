"""The directory that becomes the output when it is whole."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from porting.convert.unfinished import MARKER, check_free, unfinished_directory
from porting.errors import OutputError
from porting.model_dir import MODEL_FILES, WEIGHTS, WEIGHTS_INDEX


@contextmanager
def unfinished(output: Path) -> Iterator[Path]:
    with unfinished_directory(output, replaced=MODEL_FILES, about="x into y") as folder:
        assert not folder.found
        yield folder.path


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("existing", [False, True])
def test_the_directory_is_there_when_it_is_whole(tmp_path: Path, existing: bool) -> None:
    output = tmp_path / "deep" / "model"
    if existing:
        output.mkdir(parents=True)
    with unfinished(output) as folder:
        (folder / "config.json").write_text("{}")
        assert not output.exists() or not any(output.iterdir())
    assert tree(tmp_path) == {"deep/model/config.json": "{}"}
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    assert output.stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError("disk full")])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), unfinished(tmp_path / "a/b/model") as folder:
        (folder / "half").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == [], "not even the parents that were made for it"


def test_a_failure_leaves_the_parents_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="bad"), unfinished(tmp_path / "a/b/model"):
        raise ValueError("bad")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_a_failure_leaves_the_old_model_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "config.json").write_text("old")
    with pytest.raises(OutputError, match="disk full"), unfinished(output) as folder:
        (folder / "config.json").write_text("new")
        raise OSError("disk full")
    assert tree(tmp_path) == {"model/config.json": "old"}


def test_force_replaces_the_model_and_keeps_other_files(tmp_path: Path) -> None:
    output = tmp_path / "model"
    (output / "notes").mkdir(parents=True)
    old = ["config.json", "generation_config.json", WEIGHTS_INDEX, "model-00001-of-00002.safetensors"]
    for name in [*old, "tokenizer.json", "notes/a.txt", "model.py"]:
        (output / name).write_text("old")
    with unfinished(output) as folder:
        (folder / "config.json").write_text("new")
        (folder / WEIGHTS).write_text("new")
    assert tree(tmp_path) == {
        "model/config.json": "new",
        f"model/{WEIGHTS}": "new",
        "model/model.py": "old",
        "model/notes/a.txt": "old",
        "model/tokenizer.json": "old",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty") as caught:
        check_free(tmp_path, force=False)
    assert "--force" in caught.value.remedy
    check_free(tmp_path, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_a_file_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "model").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("model", "link"):
        with pytest.raises(OutputError, match="is a file"):
            check_free(tmp_path / name, force=force)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="model"):
        check_free(tmp_path / "file" / "model", force=False)


def test_a_disk_without_room_is_said_before_any_work(tmp_path: Path) -> None:
    check_free(tmp_path / "model", force=False, nbytes=1000)
    with pytest.raises(OutputError, match=r"needs 1,000,000,000,000,000,000 bytes, and .* are free"):
        check_free(tmp_path / "model", force=False, nbytes=10**18)


# --- after a kill ---


def test_while_it_is_made_it_is_marked_and_after_a_kill_it_still_is(tmp_path: Path) -> None:
    output = tmp_path / "model"
    with unfinished(output) as folder:
        assert folder == tmp_path / "model.unfinished"
        marker = (folder / MARKER).read_text()
        assert "unfinished conversion of x into y" in marker
        assert "Run the same command again" in marker
        assert not output.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def leave_unfinished(tmp_path: Path) -> Path:
    """What a run leaves that was killed."""
    left = tmp_path / "model.unfinished"
    left.mkdir()
    (left / MARKER).write_text("This is an unfinished conversion.")
    (left / "half").write_text("half")
    return left


def test_what_a_kill_left_is_found_again(tmp_path: Path) -> None:
    left = leave_unfinished(tmp_path)
    with unfinished_directory(tmp_path / "model", replaced=(), about="x into y") as found:
        assert found.found
        assert (left / "half").exists()
        found.keep_only([])
        assert [path.name for path in left.iterdir()] == [MARKER]
        (left / "config.json").write_text("{}")
    assert tree(tmp_path) == {"model/config.json": "{}"}


def test_two_runs_at_a_time_do_not_write_one_output(tmp_path: Path) -> None:
    with unfinished(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        with pytest.raises(OutputError, match="Another conversion"), unfinished(tmp_path / "model"):
            pytest.fail("the block must not run")
        assert (folder / "config.json").exists(), "the first one's work is left alone"
    assert tree(tmp_path) == {"model/config.json": "{}"}


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_others_made_is_never_touched(tmp_path: Path, kind: str) -> None:
    """A directory or file that has the name, and no marker."""
    place = tmp_path / "model.unfinished"
    if kind == "directory":
        place.mkdir()
        (place / "thesis.tex").write_text("mine")
    elif kind == "file":
        place.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="is in the way"), unfinished(tmp_path / "model"):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == before


def test_names_are_exchanged_in_steps_where_the_system_cannot_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_args, **_options: object())
    test_force_replaces_the_model_and_keeps_other_files(tmp_path)


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("old")
    (tmp_path / "real" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("real")
    with unfinished(tmp_path / "link") as folder:
        assert folder == tmp_path / "real.unfinished"
        (folder / "config.json").write_text("new")
    assert (tmp_path / "link").readlink() == Path("real")
    assert tree(tmp_path / "link") == {"config.json": "new", "notes.txt": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_other_files_are_not_copied_but_linked(tmp_path: Path) -> None:
    """They may be as large as the checkpoint itself."""
    output = tmp_path / "model"
    (output / "runs").mkdir(parents=True)
    (output / "model.ckpt-7.data-00000-of-00001").write_text("large")
    (output / "runs" / "events").write_text("large")
    (output / "latest").symlink_to("runs/events")
    before = {path.name: path.stat().st_ino for path in (output / "runs").iterdir()}
    with unfinished(output) as folder:
        (folder / "config.json").write_text("new")
    assert {path.name: path.stat().st_ino for path in (output / "runs").iterdir()} == before
    assert (output / "latest").readlink() == Path("runs/events")


def test_where_a_disk_is_mounted_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(OutputError, match="is where a disk is mounted") as caught:
        check_free(tmp_path, force=True)
    assert str(tmp_path / "model") in caught.value.remedy


def test_filesystems_without_locks_or_synced_directories_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    synced = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not of a directory")
        synced(descriptor)

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(os, "fsync", sync)
    with unfinished(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
    assert tree(tmp_path) == {"model/config.json": "{}"}
