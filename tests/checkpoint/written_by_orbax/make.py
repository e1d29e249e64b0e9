"""Writes the small checkpoints of this folder, with Orbax and Flax themselves; needs JAX.

    python -m venv new; new/bin/pip install jax==0.6.2 flax==0.10.7 orbax-checkpoint==0.12.8
    python -m venv old; old/bin/pip install jax==0.4.30 jaxlib==0.4.30 flax==0.8.5 orbax-checkpoint==0.4.8 'numpy<2'
    new/bin/python make.py FOLDER; old/bin/python make.py FOLDER

Version 0.4 writes a msgpack file with names of the arrays, later ones write `_METADATA` instead. Each checkpoint
becomes FOLDER/NAME.tar.gz, and what it holds FOLDER/expected.npz, bfloat16 as its bits.
"""  # noqa: E501

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

OLD = ocp.__version__.startswith("0.4.")
GENERATOR = np.random.default_rng(7)
EXPECTED = {
    "target/encoder/layers_0/mlp/wi/kernel": GENERATOR.standard_normal((6, 9)).astype(np.float32),
    "target/encoder/encoder_norm/scale": GENERATOR.standard_normal(7).astype(ml_dtypes.bfloat16),
    "target/zeros": np.zeros((2, 3), np.float32),
    "state/step": np.asarray(7, np.int32),
}


def tree() -> dict[str, Any]:
    found: dict[str, Any] = {"state": {"param_states": {"nothing": None}}, "flax_mutables": {}}
    for name, array in EXPECTED.items():
        *branches, leaf = name.split("/")
        at = found
        for branch in branches:
            at = at.setdefault(branch, {})
        at[leaf] = jnp.asarray(array)
    return found


def write_old(folder: Path) -> None:
    for name, options in {"names_zarr": {"use_ocdbt": False}, "names_ocdbt": {"use_ocdbt": True}}.items():
        handler = ocp.PyTreeCheckpointHandler(**options)
        ocp.Checkpointer(handler).save(folder / name / "checkpoint_7", tree())
    inside = jax.tree_util.tree_map(lambda _: ocp.SaveArgs(aggregate=True), tree())
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    ocp.Checkpointer(handler).save(folder / "inside" / "checkpoint_7", tree(), save_args=inside)


def write_new(folder: Path) -> None:
    for zarr3 in (False, True):
        for ocdbt in (False, True):
            name = f"{'ocdbt' if ocdbt else 'zarr'}{3 if zarr3 else 2}"
            handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(folder / name / "checkpoint_7", args=ocp.args.PyTreeSave(tree()))
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint")
    with ocp.CheckpointManager(folder / "manager", options=options) as manager:
        kept = {key: value for key, value in tree().items() if value}
        manager.save(7, args=ocp.args.Composite(state=ocp.args.StandardSave(kept)))
        manager.wait_until_finished()


def write_flax(path: Path) -> None:
    """Arrays of more than 40 bytes in pieces, as those of more than 2^30 are."""
    flax.serialization.MAX_CHUNK_SIZE = 40
    path.write_bytes(
        flax.serialization.msgpack_serialize({"optimizer": flax.serialization.to_state_dict(tree())})
    )


def main(folder: Path) -> None:
    folder = folder.resolve()
    work = folder / "work"
    work.mkdir(parents=True)
    (write_old if OLD else write_new)(work)
    for made in sorted(work.iterdir()):
        with tarfile.open(folder / f"{made.name}.tar.gz", "w:gz") as archive:
            archive.add(made, made.name)
    shutil.rmtree(work)
    if not OLD:
        write_flax(folder / "pieces.msgpack")
        bits = {n: a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a for n, a in EXPECTED.items()}
        np.savez(folder / "expected.npz", **bits)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
