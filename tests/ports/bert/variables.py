"""The variables of a small BERT and their shapes, as the original writes them: no TensorFlow."""

from __future__ import annotations

from porting.mapping import Shape


def variables(
    *, layers: int = 2, width: int = 24, inner: int = 40, heads: bool = True, slots: bool = True
) -> dict[str, Shape]:
    """What make_checkpoint.py's checkpoint holds."""
    shapes: dict[str, Shape] = {
        "bert/embeddings/word_embeddings": (51, width),
        "bert/embeddings/token_type_embeddings": (3, width),
        "bert/embeddings/position_embeddings": (36, width),
    }

    def norm(scope: str) -> None:
        shapes[f"{scope}/LayerNorm/gamma"] = shapes[f"{scope}/LayerNorm/beta"] = (width,)

    def dense(scope: str, before: int, after: int) -> None:
        shapes[f"{scope}/kernel"], shapes[f"{scope}/bias"] = (before, after), (after,)

    norm("bert/embeddings")
    for i in range(layers):
        layer = f"bert/encoder/layer_{i}"
        for name in ("query", "key", "value"):
            dense(f"{layer}/attention/self/{name}", width, width)
        dense(f"{layer}/attention/output/dense", width, width)
        norm(f"{layer}/attention/output")
        dense(f"{layer}/intermediate/dense", width, inner)
        dense(f"{layer}/output/dense", inner, width)
        norm(f"{layer}/output")
    dense("bert/pooler/dense", width, width)
    if heads:
        dense("cls/predictions/transform/dense", width, width)
        norm("cls/predictions/transform")
        shapes["cls/predictions/output_bias"] = (51,)
        shapes["cls/seq_relationship/output_weights"] = (2, width)
        shapes["cls/seq_relationship/output_bias"] = (2,)
    if slots:
        for name, shape in list(shapes.items()):
            shapes[f"{name}/adam_m"] = shapes[f"{name}/adam_v"] = shape
        shapes["global_step"] = ()
    return shapes
