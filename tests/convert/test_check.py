"""A converted directory held against its manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from porting.convert import check_directory, convert_checkpoint
from porting.errors import InputError

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked") / "model"
    convert_checkpoint(DEMO, folder, max_shard_size="200KB")
    return folder


@pytest.fixture
def directory(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "model"))


def test_the_manifest_says_where_it_came_from(converted: Path) -> None:
    manifest = json.loads((converted / "porting.json").read_text())
    index, data = manifest["source"]["files"]
    assert index["name"] == "model.ckpt-1500.index"
    assert index["size"] == (DEMO / index["name"]).stat().st_size
    assert len(index["sha256"]) == 64
    assert (data["size"], data["tensors_read"]) == ((DEMO / data["name"]).stat().st_size, 66)
    assert manifest["verified"] is True
    assert manifest["dtype"] == "keep"
    assert manifest["config_origin"].endswith("operative_config.gin")
    assert manifest["original"]["config"] == (DEMO / "operative_config.gin").read_text()
    assert manifest["original"]["more"] == {"global_step": 1500}
    assert manifest["original"]["variables"]["shared/embedding"] == [128, 40]
    assert manifest["versions"]["porting"]
    assert manifest["time"].startswith("20")
    assert {len(names) for names in manifest["ignored"].values()} == {115, 1}
    (entry,) = [entry for entry in manifest["plan"] if entry["target"] == "shared.weight"]
    assert entry["sources"] == ["shared/embedding"]
    assert entry["source_dtypes"] == ["float32"]
    tensors = {name: facts for file in manifest["files"] for name, facts in file.get("tensors", {}).items()}
    # Not transposed, so that its checksum is the one that TensorFlow wrote.
    assert tensors["shared.weight"]["crc32c"] == entry["source_crc32c"][0]
    assert {entry["target"] for entry in manifest["plan"]} == set(tensors)


def test_a_directory_as_it_was_made_is_intact(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    sizes: list[int] = []
    checked = check_directory(directory, on_start=sizes.append)
    assert {"config.json", "generation_config.json", "model.safetensors.index.json"} < set(checked.files)
    assert len([name for name in checked.files if name.endswith(".safetensors")]) > 2
    assert sizes == [checked.nbytes] == [sum((directory / name).stat().st_size for name in checked.files)]
    assert checked.others == ("notes.txt",)
    assert checked.to_json()["status"] == "intact"


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


FIRST = "model-00001-of-00004.safetensors"


@pytest.mark.parametrize(
    ("name", "change", "key", "expected"),
    [
        (FIRST, flip(-1), " in " + FIRST, "CRC32C"),
        (FIRST, flip(20), FIRST, "CRC32C"),  # in its header
        (FIRST, cut, FIRST, "bytes"),
        (FIRST, Path.unlink, FIRST, "a file of"),
        ("config.json", flip(5), "config.json", "SHA-256"),
        ("generation_config.json", Path.unlink, "generation_config.json", "a file of"),
    ],
)
def test_what_was_changed_is_named(
    directory: Path, name: str, change: Callable[[Path], None], key: str, expected: str
) -> None:
    change(directory / name)
    with pytest.raises(InputError, match=r"is not what porting\.json says") as caught:
        check_directory(directory)
    (problem,) = caught.value.problems
    assert key in problem.key
    assert expected in problem.expected
    if key.startswith(" in"):
        assert problem.key.startswith(("encoder.", "decoder.", "shared."))


def test_everything_wrong_is_said_at_once(directory: Path) -> None:
    flip(-1)(directory / FIRST)
    (directory / "config.json").unlink()
    with pytest.raises(InputError) as caught:
        check_directory(directory)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"][0].update(name="../outside"),
        lambda m: m["files"][0].pop("crc32c"),
        lambda m: m["files"][0].update(size="many"),
        lambda m: m["files"][0].update(size=1e400),
        lambda m: next(iter(m["files"][0]["tensors"].values())).update(offset=1e400),
        lambda m: m.update(files="none"),
        lambda m: m.update(files=[1]),
        lambda m: m.update(schema_version=99),
        lambda m: m["files"][0].update(tensors=[1]),
    ],
)
def test_a_manifest_that_is_none_is_refused(directory: Path, change: Callable[[dict], None]) -> None:
    path = directory / "porting.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"porting\.json"):
        check_directory(directory)


@pytest.mark.parametrize("content", [None, "", "[]", "{", "[" * 100_000])
def test_a_directory_without_a_manifest_is_said(directory: Path, content: str | None) -> None:
    path = directory / "porting.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"porting\.json"):
        check_directory(directory)
