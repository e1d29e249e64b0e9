"""Published layouts of originals, by hand: variable names and shapes, and which parameter each one is."""

from __future__ import annotations

from collections.abc import Mapping

Shape = tuple[int, ...]
# variable -> (shape, parameter)
Layout = dict[str, tuple[Shape, str]]


def bert(layers: int = 3, d: int = 24, heads_width: int = 24, ff: int = 40, vocab: int = 70) -> Layout:
    """Google's BERT (google-research/bert, modeling.py), and transformers' BertModel."""
    found: Layout = {
        "bert/embeddings/word_embeddings": ((vocab, d), "embeddings.word_embeddings.weight"),
        "bert/embeddings/position_embeddings": ((32, d), "embeddings.position_embeddings.weight"),
        "bert/embeddings/token_type_embeddings": ((2, d), "embeddings.token_type_embeddings.weight"),
        "bert/pooler/dense/kernel": ((d, d), "pooler.dense.weight"),
        "bert/pooler/dense/bias": ((d,), "pooler.dense.bias"),
    }

    def norm(source: str, target: str) -> None:
        found[f"{source}/gamma"] = ((d,), f"{target}.weight")
        found[f"{source}/beta"] = ((d,), f"{target}.bias")

    def dense(source: str, target: str, shape: Shape) -> None:
        found[f"{source}/kernel"] = (shape, f"{target}.weight")
        found[f"{source}/bias"] = (shape[1:], f"{target}.bias")

    norm("bert/embeddings/LayerNorm", "embeddings.LayerNorm")
    for i in range(layers):
        source, target = f"bert/encoder/layer_{i}", f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            dense(f"{source}/attention/self/{name}", f"{target}.attention.self.{name}", (d, heads_width))
        dense(f"{source}/attention/output/dense", f"{target}.attention.output.dense", (heads_width, d))
        norm(f"{source}/attention/output/LayerNorm", f"{target}.attention.output.LayerNorm")
        dense(f"{source}/intermediate/dense", f"{target}.intermediate.dense", (d, ff))
        dense(f"{source}/output/dense", f"{target}.output.dense", (ff, d))
        norm(f"{source}/output/LayerNorm", f"{target}.output.LayerNorm")
    return found


def gpt2(layers: int = 2, d: int = 24, vocab: int = 70) -> Layout:
    """OpenAI's GPT-2 (openai/gpt-2, model.py), and transformers' GPT2Model."""
    found: Layout = {
        "model/wte": ((vocab, d), "wte.weight"),
        "model/wpe": ((32, d), "wpe.weight"),
        "model/ln_f/g": ((d,), "ln_f.weight"),
        "model/ln_f/b": ((d,), "ln_f.bias"),
    }
    for i in range(layers):
        for norm in ("ln_1", "ln_2"):
            found[f"model/h{i}/{norm}/g"] = ((d,), f"h.{i}.{norm}.weight")
            found[f"model/h{i}/{norm}/b"] = ((d,), f"h.{i}.{norm}.bias")
        for name, shape in {
            "attn/c_attn": (1, d, 3 * d),
            "attn/c_proj": (1, d, d),
            "mlp/c_fc": (1, d, 4 * d),
            "mlp/c_proj": (1, 4 * d, d),
        }.items():
            target = f"h.{i}.{name.replace('/', '.')}"
            found[f"model/h{i}/{name}/w"] = (shape, f"{target}.weight")
            found[f"model/h{i}/{name}/b"] = (shape[2:], f"{target}.bias")
    return found


def with_slots(layout: Layout) -> dict[str, Shape]:
    """The shapes, with what Google's AdamWeightDecayOptimizer keeps beside each variable."""
    shapes: dict[str, Shape] = {"global_step": ()}
    for name, (shape, _) in layout.items():
        shapes |= dict.fromkeys((name, f"{name}/adam_m", f"{name}/adam_v"), shape)
    return shapes


def targets(layout: Layout) -> Mapping[str, str]:
    """Variable -> parameter."""
    return {name: target for name, (_, target) in layout.items()}
