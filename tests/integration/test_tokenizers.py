"""The tokenizer.json that is made for a BERT, against Google's own tokenization.py."""

from __future__ import annotations

from pathlib import Path

from porting.ports.bert.port import PORT
from porting.ports.bert.tokenizer import TOKENIZER
from porting.tokenizer import TEXTS, Tokenizer, compare_tokenizer
from tests.ports.bert.make_checkpoint import CONFIG, WORDS

ORIGINAL = ("tensorflow", "bert", "tf_keras")


def test_google_reads_as_the_tokenizer_json(tmp_path: Path) -> None:
    import tokenizers

    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS.split(), "##fox"]) + "\n", encoding="utf-8")
    assert PORT.tokenizer_files
    found = PORT.tokenizer_files(tmp_path, PORT.config_from_json({**CONFIG, "vocab_size": 80}))
    assert found
    made = tokenizers.Tokenizer.from_str(found.files["tokenizer.json"].decode())
    made.encode_special_tokens = True
    port = Tokenizer(TOKENIZER.reference, lambda _, text: made.encode(text, add_special_tokens=False).ids)
    # Google gives up on words of more than 200 characters, transformers' own class on those of more than 100.
    texts = [*TEXTS, "fox" * 50, "fox" * 67, "e" * 200]
    assert compare_tokenizer(port, tmp_path / "bert_model.ckpt", texts) == []
