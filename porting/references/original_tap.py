"""Which tensor of an original belongs to which tap of a port, and how its axes are called."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porting.errors import Problem, ReferenceRunError
from porting.module_output import module_output
from porting.tap import Tap
from porting.trace import TraceWriter, Where


@dataclass(frozen=True)
class OriginalTap:
    """A tensor of the original, under the name of the port's tap that it is compared with.

    Example:
        OriginalTap("encoder.layer.0.output", "bert/encoder/layer_0/output/LayerNorm/batchnorm/add_1:0",
                    "(batch length) d_model", sizes={"batch": 3})

    Attributes:
        name: the port's name, as its `Tap` has it.
        original: the original's own name: of a graph's tensor, of a module, of a layer's output.
        dims: names of the tensor's dimensions in order, the port's names; a group in parentheses is one axis
            that holds several, and is taken apart: `(batch length) d_model`; `1` is an axis of size 1 that
            is left out. See `Tap`.
        sizes: sizes of dimensions inside groups, all but one of each group.
        hidden_below: as in `Tap`: values at or below this are attention masks.
        where: masks that all have to be true where the tensor means anything, each with the names of the
            tensor's dimensions that it is for: `(("inputs", "batch length"),)`. The masks themselves come
            with the original's answer.
        has_gradient: False where the original goes on with the tensor otherwise than the port does (with a
            copy, or in more places), so that its gradient is no gradient of the port's tap.
        optional: whether an original of some configs lacks the tensor; it then stays out of the trace.
            Better, where the config says so: list the tap only then, so that a wrong name is noticed.
    """

    name: str
    original: str
    dims: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    hidden_below: float | None = None
    optional: bool = False
    where: tuple[tuple[str, str], ...] = ()
    has_gradient: bool = True

    def labelled(
        self, values: np.ndarray, sizes: Mapping[str, int] | None = None
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """Names of the dimensions, and the values with groups taken apart.

        Args:
            values: as the original has them; bfloat16 and float16 are widened to float32.
            sizes: of dimensions inside groups, where the tap has none of its own.

        Raises:
            ValueError: the tensor has another number of axes, or an axis does not divide.
        """
        tap = Tap(self.name, self.dims, {**(sizes or {}), **self.sizes})
        values = np.asarray(values)
        if values.dtype.itemsize < 4 and values.dtype.kind not in "biu":  # bfloat16 is of kind V
            values = values.astype(np.float32)
        return tap.dimension_names, values.reshape(tap.unfolded_shape(values.shape))


def written_masks(
    writer: TraceWriter, where: Sequence[tuple[str, str]], masks: Mapping[str, np.ndarray]
) -> list[Where]:
    """The masks of a tap, written into a trace.

    Raises:
        ReferenceRunError: the original gave no mask of that name.
    """
    absent = [name for name, _ in where if name not in masks]
    if absent:
        raise ReferenceRunError(
            f"Taps are masked by {', '.join(absent)}, and the original gave no such mask.",
            remedy="Correct `where` of the taps, or `masks`, in the port's reference.py.",
        )
    return [Where(writer.mask(name, masks[name]), tuple(dims.split())) for name, dims in where]


def known_taps(
    taps: Sequence[OriginalTap], known: Collection[str], what: str
) -> tuple[list[OriginalTap], list[str]]:
    """The taps whose tensors the original has, and the names of optional ones that it lacks.

    Args:
        taps: what is to be tapped.
        known: every name that the original has.
        what: what such a name is called: "tensor of the graph".

    Raises:
        ReferenceRunError: tensors are not there, or a tap is listed twice; all of them, each with the nearest
            names that there are.
    """
    problems = [
        Problem(name, "one tap of that name", f"{times}")
        for name, times in Counter(tap.name for tap in taps).items()
        if times > 1
    ]
    for tap in taps:
        if tap.original not in known and not tap.optional:
            near = difflib.get_close_matches(tap.original, known, n=3)
            remedy = f"nearest: {', '.join(near)}" if near else "nothing there has a name like it"
            problems.append(Problem(tap.name, f"a {what} named {tap.original}", "none", remedy))
    if problems:
        raise ReferenceRunError(
            f"{len(problems)} taps do not fit the original.",
            problems=problems,
            remedy="Correct their names in the port's reference.py.",
        )
    there = [tap for tap in taps if tap.original in known]
    return there, [tap.name for tap in taps if tap.original not in known]


def heard_taps(
    taps: Sequence[OriginalTap],
    heard: Collection[str],
    outputs: Collection[str],
    modules: Collection[str],
) -> tuple[list[OriginalTap], list[str]]:
    """The taps that were heard, in that order, and the names of optional ones that were not.

    For originals made of modules (layers), which are named as in `porting.module_output`.

    Args:
        taps: what is to be tapped.
        heard: the original's names of what was heard, in order.
        outputs: names of the outputs of the whole model.
        modules: paths of all modules.

    Raises:
        ReferenceRunError: there is no such module or output, or it gave no such tensor; all of them.
    """
    silent = [tap for tap in taps if tap.original not in heard and not tap.optional]
    problems = [
        Problem(tap.name, f"a tensor from {tap.original}", "a module that gave none in this run")
        for tap in silent
        if module_output(tap.original, modules) is not None
    ]
    if problems:
        raise ReferenceRunError(
            "Modules were tapped that are not called (so often), or return no such tensor.",
            problems=problems,
            remedy="Correct the taps in the port's reference.py, or mark them optional.",
        )
    # A wrong name is answered with all the modules and outputs that there are.
    known = dict.fromkeys([*heard, *outputs, *(modules if silent else ())])
    there, absent = known_taps(taps, known, "module or output")
    order = {name: place for place, name in enumerate(heard)}
    return sorted(there, key=lambda tap: order[tap.original]), absent
