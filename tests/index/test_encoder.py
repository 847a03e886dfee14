"""The encoders: the committed artefact as it runs in production, and the in-memory one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index import encoder as module
from index.encoder import Encoder, HashEncoder, OnnxEncoder, Tokens, encode_texts, pack
from index.errors import EncoderError

FOLDER = Path(__file__).parents[2] / "encoders" / "all-MiniLM-L6-v2"
ODD = {
    "empty": "",
    "blank": " \t\n\r ",
    "emoji": "👩‍👩‍👧‍👦🙂🏳️‍🌈",
    "right to left": "שלום עולם، مرحبا بالعالم",
    "a NUL": "before\x00after",
    "only NULs": "\x00\x00",
    "a lone surrogate": "broken \ud800 text \udfff",
    "special tokens": "[CLS] [SEP] [PAD] [MASK]",
    "combining marks": "e" + "\u0301" * 500,
    "one long word": "x" * 5_000,
    "10 MB of words": "word " * 2_000_000,
    "10 MB of one letter": "x" * 10_000_000,
    "10 MB of blanks": " " * 10_000_000 + "hello",
}


@pytest.fixture(scope="module")
def onnx() -> OnnxEncoder:
    return OnnxEncoder.load(FOLDER)


@pytest.fixture(params=["onnx", "hash"])
def encoder(request: pytest.FixtureRequest, onnx: OnnxEncoder) -> Encoder:
    return onnx if request.param == "onnx" else HashEncoder()


def random_tokens(seed: int, lengths: Sequence[int]) -> list[Tokens]:
    random = np.random.default_rng(seed)
    return [Tokens([101, *map(int, random.integers(1000, 30_000, n - 2)), 102], truncated=False) for n in lengths]


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_any_string_has_a_finite_unit_vector(encoder: Encoder, text: str) -> None:
    tokens = encoder.tokenise([text])
    vectors = encoder.encode(tokens)
    assert 0 < len(tokens[0]) <= encoder.max_tokens
    assert vectors.shape == (1, encoder.dimensions)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)


def test_texts_beyond_the_window_are_marked_truncated(encoder: Encoder) -> None:
    fits, too_long, huge = encoder.tokenise(["two words", "word " * 300, "x" * 10_000_000])
    assert not fits.truncated
    assert too_long.truncated
    assert len(too_long) == encoder.max_tokens
    assert huge.truncated


def test_a_text_that_just_fills_the_window_is_not_truncated(onnx: OnnxEncoder) -> None:
    full, over = onnx.tokenise(["word " * 254, "word " * 255])
    assert (len(full), full.truncated) == (256, False)
    assert (len(over), over.truncated) == (256, True)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_vector_is_the_same_bytes_alone_and_in_any_batch(onnx: OnnxEncoder, seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens = random_tokens(seed, [*range(3, 40), *map(int, random.integers(3, 257, 30)), 255, 256])
    alone = [onnx.encode([each])[0].tobytes() for each in tokens]
    for _ in range(12):
        batch = random.choice(len(tokens), int(random.integers(2, 17)), replace=False)
        together = onnx.encode([tokens[index] for index in batch])
        assert [row.tobytes() for row in together] == [alone[index] for index in batch]


def test_without_vnni_vectors_are_the_same_bytes(onnx: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens(5, [3, 20, 21, 90, 256])
    monkeypatch.setattr(module, "_has_vnni", lambda: False)
    wide = OnnxEncoder.load(FOLDER)
    assert wide.encode(tokens).tobytes() == onnx.encode(tokens).tobytes()


def test_threads_share_an_encoder_and_get_the_same_bytes(encoder: Encoder) -> None:
    texts = [f"question number {n} about " + "many things " * (n % 7) for n in range(40)]
    tokens = encoder.tokenise(texts)
    expected = [encoder.encode([each]).tobytes() for each in tokens]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert [each.tobytes() for each in pool.map(lambda one: encoder.encode([one]), tokens)] == expected


def test_encode_texts_keeps_order_and_reports_every_text(encoder: Encoder) -> None:
    texts = ["long " * 60, "short", "", "of middling length, more or less", "short"] * 5
    done: list[int] = []
    vectors = encode_texts(encoder, texts, batch_tokens=48, progress=done.append)
    one_by_one = np.concatenate([encoder.encode(encoder.tokenise([text])) for text in texts])
    assert vectors.tobytes() == one_by_one.tobytes()
    assert sum(done) == len(texts)


def test_nothing_to_encode_gives_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimensions)
    assert encode_texts(encoder, []).shape == (0, encoder.dimensions)


def test_texts_that_mean_the_same_are_nearer(onnx: OnnxEncoder) -> None:
    one, same, other = encode_texts(
        onnx, ["How do I reset my password?", "I forgot my password, what now?", "Which planet is the largest?"]
    )
    assert one @ same > 0.6
    assert one @ other < 0.2


def test_the_hash_encoder_puts_texts_that_share_words_near_each_other() -> None:
    one, same, other = encode_texts(HashEncoder(), ["reset my password", "my password reset", "largest planet"])
    assert one @ same == pytest.approx(1, abs=1e-5)
    assert abs(one @ other) < 0.5


def test_encoders_of_different_parameters_have_different_digests(onnx: OnnxEncoder) -> None:
    digests = {onnx.digest, HashEncoder().digest, HashEncoder(32).digest, HashEncoder(max_tokens=8).digest}
    assert len(digests) == 4
    assert OnnxEncoder.load(FOLDER).digest == onnx.digest


def test_pack_uses_every_text_once_within_the_budget() -> None:
    lengths = [3, 90, 12, 12, 300, 7, 41, 40, 3, 5]
    batches = pack(lengths, batch_tokens=100)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 100
    assert [4] in batches


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "encoder")
    if damage == "missing":
        (folder / name).unlink()
    else:
        with (folder / name).open("ab") as file:
            file.write(b" ")
    with pytest.raises(EncoderError, match=rf"{name}.*(restore|export)"):
        OnnxEncoder.load(folder)


@pytest.mark.parametrize("change", [{"format": 99}, {"max_tokens": 512}, {"prefix": "query: "}, {"files": None}])
def test_a_description_that_was_edited_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "encoder")
    description = json.loads((folder / "encoder.json").read_text()) | change
    (folder / "encoder.json").write_text(json.dumps(description))
    with pytest.raises(EncoderError, match=r"encoder\.json"):
        OnnxEncoder.load(folder)


def test_a_description_nested_too_deep_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "encoder")
    (folder / "encoder.json").write_text("[" * 99_999)
    with pytest.raises(EncoderError, match=r"encoder\.json"):
        OnnxEncoder.load(folder)


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"encoder\.json.*export"):
        OnnxEncoder.load(tmp_path)


def test_loading_the_encoder_leaves_no_telemetry_behind(tmp_path: Path) -> None:
    # onnxruntime makes a device id and an upload queue in the home folder when it is imported, unless told not to.
    program = (
        f"from pathlib import Path; from index.encoder import OnnxEncoder; OnnxEncoder.load(Path({str(FOLDER)!r}))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**environment, "HOME": str(tmp_path)}, cwd=FOLDER.parents[1]
    )
    assert not list(tmp_path.rglob("*"))
