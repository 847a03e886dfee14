"""Exporting: every known architecture, small and random, against sentence-transformers itself.

The default artefact is exported again, and compared with the committed one, if WAYPOST_ENCODER_SOURCE names a folder
with the original all-MiniLM-L6-v2.
"""

import importlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.encoder import OnnxEncoder, encode_texts
from index.errors import EncoderError
from index.export import SENTENCES, compare, export, read_sentences

FOLDER = Path(__file__).parents[2] / "encoders" / "all-MiniLM-L6-v2"
MISSING = [name for name in ("torch", "sentence_transformers", "onnx") if find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"the [export] extra is not installed: no {', '.join(MISSING)}")
random_model = pytest.mark.usefixtures("few")
pytestmark = pytest.mark.filterwarnings("default")  # the libraries that only an export uses have theirs


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate and verify on a few of the sentences, long ones among them: a random model needs no more."""
    folder = tmp_path / "sentences"
    folder.mkdir()
    for name in ("calibration", "verification"):
        lines = (SENTENCES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{name}.jsonl").write_text("\n".join(lines[::9]), encoding="utf-8")
    monkeypatch.setattr("index.export.SENTENCES", folder)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
SHAPE = {"vocab_size": 30_522, "pad_token_id": 0, "max_position_embeddings": 80}


def make_model(folder: Path, kind: str, *, pooling: str = "mean", dense: bool = False, **config: object) -> str:
    """Save a random model of architecture `kind`, with the vocabulary of the default encoder."""
    import torch
    from sentence_transformers import SentenceTransformer

    st: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(7)
    sizes = SMALL_DISTILBERT if kind == "distilbert" else SMALL
    network = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **SHAPE, **sizes, **config))
    with torch.no_grad():
        for parameter in network.parameters():  # the usual start makes all texts alike
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.save_pretrained(folder / "network")
    tokens: dict[str, Any] = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"), **tokens).save_pretrained(
        folder / "network"
    )
    modules: list[Any] = [st.Transformer(str(folder / "network"), max_seq_length=64), st.Pooling(32, pooling)]
    if dense:
        modules.append(st.Dense(32, 16))
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return str(folder / "model")


@needs_extra
@random_model
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert"])
def test_an_fp32_export_gives_the_vectors_of_the_original(tmp_path: Path, kind: str) -> None:
    report = export(make_model(tmp_path, kind), tmp_path / "out", precision="fp32")
    assert report.fidelity.minimum > 0.99999
    assert (report.dimensions, report.max_tokens) == (32, 64)


@needs_extra
@random_model
@pytest.mark.parametrize(
    ("pooling", "dense", "activation"), [("cls", False, "gelu"), ("mean", True, "gelu_new"), ("cls", True, "relu")]
)
def test_pooling_dense_layers_and_activations_are_followed(
    tmp_path: Path, pooling: str, activation: str, *, dense: bool
) -> None:
    model = make_model(tmp_path, "bert", pooling=pooling, dense=dense, hidden_act=activation)
    report = export(model, tmp_path / "out", precision="fp32")
    assert report.fidelity.minimum > 0.99999
    assert report.dimensions == (16 if dense else 32)


@needs_extra
@random_model
@pytest.mark.parametrize("dense", [False, True])
def test_an_int8_export_is_verified_described_and_exact(tmp_path: Path, *, dense: bool) -> None:
    said: list[str] = []
    report = export(make_model(tmp_path, "mpnet", dense=dense), tmp_path / "out", source="ours", progress=said.append)
    description = json.loads((report.folder / "encoder.json").read_text())
    assert description["source"] == "ours"
    stated = description["fidelity"]
    assert stated["sentences"]["minimum"] == pytest.approx(report.fidelity.minimum, abs=1e-4)
    assert stated["fragments"]["mean"] == pytest.approx(report.fragments.mean, abs=1e-4)
    assert stated["sentences"]["texts"] + stated["fragments"]["texts"] == len(read_sentences("verification"))
    assert description["digest"] == report.digest
    assert said
    encoder = OnnxEncoder.load(report.folder)
    texts = read_sentences("verification")
    alone = np.concatenate([encoder.encode(encoder.tokenise([text])) for text in texts])
    assert encode_texts(encoder, texts, batch_tokens=200).tobytes() == alone.tobytes()


@needs_extra
@random_model
def test_exporting_twice_gives_the_same_artefact(tmp_path: Path) -> None:
    model = make_model(tmp_path, "bert")
    one, two = (export(model, tmp_path / name, source="ours") for name in ("one", "two"))
    assert one.digest == two.digest
    assert (tmp_path / "one" / "encoder.json").read_bytes() == (tmp_path / "two" / "encoder.json").read_bytes()
    assert compare(one.folder, two.folder).identical


@needs_extra
@random_model
@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        ("electra", {}, "architecture 'electra'"),
        ("bert", {"pooling": "max"}, "pooling"),
        ("bert", {"hidden_act": "silu"}, "activation"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    tmp_path: Path, kind: str, options: dict[str, Any], complaint: str
) -> None:
    model = make_model(tmp_path, kind, **options)
    with pytest.raises(EncoderError, match=complaint):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_extra
def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot load"):
        export(str(tmp_path / "nothing"), tmp_path / "out")


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EncoderError, match=r"waypost\[export\]"):
        export("any", tmp_path / "out")


def test_the_sentences_are_many_distinct_and_disjoint() -> None:
    calibration, verification = read_sentences("calibration"), read_sentences("verification")
    assert len(set(verification)) == len(verification) >= 500
    assert not set(calibration) & set(verification)


def test_the_committed_artefact_is_as_faithful_as_promised() -> None:
    description = json.loads((FOLDER / "encoder.json").read_text())
    sentences, fragments = description["fidelity"]["sentences"], description["fidelity"]["fragments"]
    assert sentences["texts"] >= 500
    assert sentences["mean"] >= 0.998
    assert sentences["minimum"] >= 0.995
    assert fragments["minimum"] >= 0.99
    assert description["licence"] == "apache-2.0"
    assert compare(FOLDER, FOLDER).same


@needs_extra
@pytest.mark.skipif("WAYPOST_ENCODER_SOURCE" not in os.environ, reason="WAYPOST_ENCODER_SOURCE names no original")
def test_a_fresh_export_of_the_default_is_the_committed_artefact(tmp_path: Path) -> None:
    origin = "sentence-transformers/all-MiniLM-L6-v2"
    report = export(os.environ["WAYPOST_ENCODER_SOURCE"], tmp_path / "out", source=origin)
    comparison = compare(report.folder, FOLDER)
    assert comparison.same, f"identical: {comparison.identical}, cosine at worst {comparison.minimum}"
