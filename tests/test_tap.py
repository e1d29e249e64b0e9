from __future__ import annotations

import pytest

from porting.tap import Tap


def test_groups_are_taken_apart_slowest_first() -> None:
    tap = Tap("q", "batch length (heads d_kv)", {"heads": 3, "d_kv": 5})
    assert tap.dimension_names == ("batch", "length", "heads", "d_kv")
    assert tap.unfolded_shape((2, 7, 15)) == (2, 7, 3, 5)


def test_one_size_of_a_group_may_be_left_to_the_tensor() -> None:
    assert Tap("q", "(heads d_kv) batch", {"heads": 3}).unfolded_shape((12, 2)) == (3, 4, 2)


def test_a_scalar_has_no_dimensions() -> None:
    assert Tap("loss", "").dimension_names == ()
    assert Tap("loss", "").unfolded_shape(()) == ()


def test_a_group_of_one_is_the_axis_itself() -> None:
    assert Tap("x", "(batch) length").unfolded_shape((2, 3)) == (2, 3)


@pytest.mark.parametrize("shape", [(), (2,), (2, 7, 3, 5)])
def test_another_number_of_axes_is_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"encoder\.q: dims 'batch length d_model' name 3 axes"):
        Tap("encoder.q", "batch length d_model").unfolded_shape(shape)


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({"heads": 3}, 16),  # does not divide
        ({"heads": 3, "d_kv": 5}, 16),  # another product
        ({"heads": 3, "d_kv": 5}, 30),  # a multiple of the product
        ({}, 15),  # two unknown sizes
    ],
)
def test_an_axis_that_is_not_its_group_is_refused(sizes: dict[str, int], size: int) -> None:
    with pytest.raises(ValueError, match=rf"encoder\.q: an axis of {size} is not \(heads d_kv\)"):
        Tap("encoder.q", "batch (heads d_kv)", sizes).unfolded_shape((2, size))


def test_an_axis_of_one_that_the_original_lacks_is_left_out() -> None:
    tap = Tap("scores", "batch 1 length (heads d_kv)", {"heads": 3})
    assert tap.dimension_names == ("batch", "length", "heads", "d_kv")
    assert tap.unfolded_shape((2, 1, 7, 15)) == (2, 7, 3, 5)


def test_only_the_axis_marked_as_one_is_left_out() -> None:
    assert Tap("scores", "batch 1 length").unfolded_shape((1, 1, 1)) == (1, 1)


@pytest.mark.parametrize("size", [0, 2, 3])
def test_an_axis_that_should_be_one_and_is_not_is_refused(size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"scores: dims 'batch 1 length' have 1 where the tensor has {size}"
    ):
        Tap("scores", "batch 1 length").unfolded_shape((2, size, 7))
