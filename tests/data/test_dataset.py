"""Datasets: every token leads back to its document, and every step's rows are known from its number."""

import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordPieceTrainer

from data.conftest import World
from underlay.data import Corpus, Dataset, Document, PackConfig, Rows, pack, write_corpus
from underlay.data.rows import Packing, permute
from underlay.errors import UserError
from underlay.text import Special, Tokenizer
from underlay.text.ranks import Ranks

PACKING = importlib.import_module("underlay.data.pack")  # `underlay.data.pack` is the function


def test_tokens_lead_back_to_their_document_and_text(world: World) -> None:
    texts = {document.id: document.text for document in world.corpus}
    bos, eos = world.tokenizer.special(Special.BOS), world.tokenizer.special(Special.EOS)
    seen = set()
    for dataset in (world.dataset, world.heldout):
        position = 0
        for number, id_ in enumerate(dataset.ids):
            document = dataset.document(number)
            assert (document.id, document.start) == (id_, position)
            tokens = dataset.tokens[document.start : document.end]
            assert (tokens[0], tokens[-1]) == (bos, eos)
            assert world.tokenizer.decode(tokens.tolist()) == texts[id_]
            for place in (document.start, document.end - 1):
                assert dataset.document_at(place) == document
            position = document.end
            seen.add(id_)
        assert position == len(dataset) == len(dataset.tokens)
    assert seen == texts.keys()


def test_documents_are_held_out_by_content(world: World, tmp_path: Path) -> None:
    subset = write_corpus(tmp_path / "corpus", list(world.corpus)[::2], [])
    (tmp_path / "dataset").mkdir()
    pack(subset, world.tokenizer, PackConfig(heldout=0.2), tmp_path / "dataset")
    held = set(Dataset(tmp_path / "dataset", "heldout").ids)
    assert held == set(world.heldout.ids) & {document.id for document in subset}


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("at_once", [1, 3000, 1 << 30])
def test_packing_is_deterministic(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, at_once: int
) -> None:
    monkeypatch.setattr(PACKING, "_AT_ONCE", at_once)
    pack(world.corpus, world.tokenizer, PackConfig(heldout=0.2), tmp_path, threads=threads)
    for path in ("dataset.json", "train/tokens.bin", "train/documents.parquet", "heldout/tokens.bin"):
        assert (tmp_path / path).read_bytes() == (world.folder / path).read_bytes()


def test_tokens_do_not_depend_on_the_encoder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of encoding by ranks and by `tokenizers`, each packs the same; the table is what it was when rows were dicts."""
    assert world.tokenizer._ranks is not None
    monkeypatch.setattr(Ranks, "encode", lambda *_: None)
    pack(world.corpus, world.tokenizer, PackConfig(heldout=0.2), tmp_path)
    for path in ("train/tokens.bin", "heldout/tokens.bin"):
        assert (tmp_path / path).read_bytes() == (world.folder / path).read_bytes()
    table = pq.read_table(world.folder / "train/documents.parquet")
    pq.write_table(pa.Table.from_pylist(table.to_pylist(), table.schema), tmp_path / "again", compression="zstd")
    assert (tmp_path / "again").read_bytes() == (world.folder / "train/documents.parquet").read_bytes()


def test_packing_holds_a_few_stretches_at_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the encoder is, the corpus is not read far ahead of it."""
    monkeypatch.setattr(PACKING, "_AT_ONCE", 1)
    read, ahead, written = 0, 0, 0
    stretches = PACKING._stretches

    def counted(corpus: Corpus) -> Iterator[pa.Table]:
        nonlocal read, ahead
        for rows in stretches(corpus):
            read += 1
            ahead = max(ahead, read - written)
            yield rows

    def progress(done: float, total: float | None, **_: float | str) -> None:
        nonlocal written
        written += 1

    monkeypatch.setattr(PACKING, "_stretches", counted)
    pack(world.corpus, world.tokenizer, PackConfig(heldout=0.2), tmp_path, progress, threads=2)
    assert written == read > 6
    assert ahead <= 6


def test_one_document_is_too_few(world: World, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", [Document("text", "a", 1, 1, "MIT", "text")], [])
    with pytest.raises(UserError, match="at least 2 are needed"):
        pack(corpus, world.tokenizer, PackConfig(), tmp_path)


def test_of_few_documents_the_shortest_is_held_out(world: World, tmp_path: Path) -> None:
    documents = [Document("word " * n, f"{n}", 1, 1, "MIT", "text") for n in (400, 7)]
    corpus = write_corpus(tmp_path / "c", documents, [])
    (tmp_path / "d").mkdir()
    pack(corpus, world.tokenizer, PackConfig(heldout=1e-9), tmp_path / "d")
    assert Dataset(tmp_path / "d", "heldout").document(0).source == "7"


@pytest.fixture(scope="module")
def halves(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """Two corpora that have some documents in common."""
    folder, documents = tmp_path_factory.mktemp("halves"), list(world.corpus)
    chosen = {"prose": documents[:9], "code": documents[7:]}
    return {name: write_corpus(folder / name, some, []) for name, some in chosen.items()}


def test_each_corpus_is_a_part_of_the_tokens(world: World, halves: dict[str, Corpus], tmp_path: Path) -> None:
    pack(halves, world.tokenizer, PackConfig(heldout=0.2), tmp_path)
    ids: dict[str, set[str]] = {}
    for split in ("train", "heldout"):
        dataset = Dataset(tmp_path, split)
        assert list(dataset.parts) == ["code", "prose"]  # by name: the order they are given in is no setting
        assert [*dataset.parts["code"], *dataset.parts["prose"]] == list(range(len(dataset)))
        for name, tokens in dataset.parts.items():
            found = dataset.ids[dataset.inside(tokens)]
            assert found
            assert {dataset.part_at(int(start)) for start in dataset.starts[dataset.inside(tokens)]} == {name}
            ids[f"{split} {name}"] = set(found)
    for name, corpus in halves.items():
        assert ids[f"train {name}"] | ids[f"heldout {name}"] == {document.id for document in corpus}
    # What is held out of one corpus is not learned from another.
    assert not (ids["train code"] | ids["train prose"]) & (ids["heldout code"] | ids["heldout prose"])


@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_rows_of_one_part_hold_nothing_else(
    world: World, halves: dict[str, Corpus], tmp_path: Path, packing: Packing
) -> None:
    pack(halves, world.tokenizer, PackConfig(heldout=0.2), tmp_path)
    for split in ("train", "heldout"):
        dataset = Dataset(tmp_path, split)  # type: ignore[arg-type]
        read = {name: Rows(dataset, 16, 0, packing=packing, part=name) for name in dataset.parts}
        for name, rows in read.items():
            pieces = [piece for sample in range(rows.count) for piece in rows.pieces(sample)]
            assert all(dataset.parts[name].start <= a < b <= dataset.parts[name].stop for a, b in pieces)
            assert sum(b - a for a, b in pieces) > 0.9 * len(dataset.parts[name]) - 16


@pytest.mark.parametrize(
    ("special", "wanted"),
    [
        ({"cls_token": "[CLS]", "sep_token": "[SEP]"}, ("[CLS]", "[SEP]")),
        ({"bos_token": "[CLS]", "eos_token": "[SEP]"}, ("[CLS]", "[SEP]")),
        ({"eos_token": "[SEP]"}, ("[SEP]", "[SEP]")),
    ],
)
def test_documents_are_marked_by_what_a_tokenizer_has(
    world: World, tmp_path: Path, special: dict[str, str], wanted: tuple[str, str]
) -> None:
    backend = Backend(WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.train_from_iterator(
        (one.text for one in world.corpus), WordPieceTrainer(special_tokens=["[UNK]", "[CLS]", "[SEP]"])
    )
    tokenizer = Tokenizer(backend, {"unk_token": "[UNK]", **special})
    data = pack(world.corpus, tokenizer, PackConfig(heldout=0.2), tmp_path)
    marks = [tokenizer.name(int(data.tokens[place])) for place in (data.starts[3], data.ends[3] - 1)]
    assert tuple(marks) == wanted


def test_what_is_held_out_for_want_of_another_is_so_everywhere(world: World, tmp_path: Path) -> None:
    """The shortest document of one corpus is held out; the same text stands in the other."""
    short, long, other = (Document("word " * n, f"{n}", 1, 1, "MIT", "text") for n in (7, 400, 300))
    corpora = {
        "one": write_corpus(tmp_path / "one", [short, long], []),
        "two": write_corpus(tmp_path / "two", [other, short], []),
    }
    (tmp_path / "d").mkdir()
    pack(corpora, world.tokenizer, PackConfig(heldout=1e-9), tmp_path / "d")
    assert set(Dataset(tmp_path / "d").ids) == {long.id, other.id}
    assert Dataset(tmp_path / "d", "heldout").ids == [short.id, short.id]
    corpora["two"] = write_corpus(tmp_path / "three", [short, short], [])
    with pytest.raises(UserError, match="all 2 documents of corpus two would be held out"):
        pack(corpora, world.tokenizer, PackConfig(heldout=1e-9), tmp_path / "e")
    corpora["two"] = write_corpus(tmp_path / "four", [short], [])
    with pytest.raises(UserError, match="corpus two has 1 document"):
        pack(corpora, world.tokenizer, PackConfig(), tmp_path / "e")


def test_datasets_without_parts_are_what_they_were(world: World) -> None:
    values = json.loads((world.folder / "dataset.json").read_text())
    assert set(values) == {"format", "dtype", "vocabulary", "tokens", "documents", "bytes"}
    assert world.dataset.parts == {}
    assert world.dataset.part_at(0) is None


@pytest.mark.parametrize("damage", ["tokens.bin", "dataset.json"])
def test_damaged_datasets_are_refused(world: World, tmp_path: Path, damage: str) -> None:
    pack(world.corpus, world.tokenizer, PackConfig(heldout=0.2), tmp_path)
    path = tmp_path / ("train/tokens.bin" if damage == "tokens.bin" else damage)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=damage.replace(".", r"\.")):
        Dataset(tmp_path)


@given(st.integers(1, 300), st.binary(min_size=1, max_size=32))
def test_the_permutation_is_one(size: int, key: bytes) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


def test_the_permutation_depends_on_its_key_and_shuffles() -> None:
    orders = [[permute(index, 1000, bytes([key])) for index in range(1000)] for key in range(5)]
    assert len({tuple(order) for order in orders}) == 5
    for order in orders:
        correlation = np.corrcoef(order, range(1000))[0, 1]
        assert abs(correlation) < 0.15


def test_the_order_of_rows_is_what_it_always_was(world: World) -> None:
    """Runs of earlier versions go on, and their steps are traced, only as long as these formulas stay."""
    assert [permute(index, 10, b"key") for index in range(10)] == [5, 8, 0, 3, 2, 7, 9, 4, 1, 6]
    rows = Rows(world.dataset, 16, seed=3)
    assert rows.count == (len(world.dataset) - 1) // 16
    for sample in (0, 7, rows.count + 5):
        turn, index = divmod(sample, rows.count)
        assert rows.start(sample) == 16 * permute(index, rows.count, hashlib.sha256(f"3:{turn}".encode()).digest())
    assert rows.batch(0, 2).weights is None


def test_each_pass_reads_every_row_once(world: World) -> None:
    rows = Rows(world.dataset, 16, seed=3)
    first = [rows.start(sample) for sample in range(rows.count)]
    second = [rows.start(sample) for sample in range(rows.count, 2 * rows.count)]
    assert sorted(first) == sorted(second) == [row * 16 for row in range(rows.count)]
    assert first != second
    assert first != [Rows(world.dataset, 16, seed=4).start(sample) for sample in range(rows.count)]


def test_batches_hold_the_rows_and_name_their_documents(world: World) -> None:
    rows = Rows(world.dataset, 64, seed=0)
    batch = rows.batch(5, 7)
    assert batch.tokens.shape == batch.targets.shape == (7, 64)
    for row in range(7):
        start = rows.start(5 + row)
        window = torch.from_numpy(world.dataset.tokens[start : start + 65].astype(np.int64))
        assert torch.equal(batch.tokens[row], window[:-1])
        assert torch.equal(batch.targets[row], window[1:])
        expected = {world.dataset.number_at(place) for place in range(start, start + 65)}
        assert set(batch.documents[row]) == expected


def test_batches_do_not_depend_on_how_they_are_cut(world: World) -> None:
    rows = Rows(world.dataset, 32, seed=1)
    whole = rows.batch(10, 8)
    parts = [rows.batch(first, 2) for first in range(10, 18, 2)]
    assert torch.equal(whole.tokens, torch.cat([part.tokens for part in parts]))


def test_isolated_batches_say_which_document_each_token_is_of(world: World) -> None:
    dataset = world.dataset
    rows = Rows(dataset, 64, 0, isolate=True)
    batch = rows.batch(0, rows.count)
    assert batch.segments is not None
    starts = [rows.start(sample) for sample in range(rows.count)]
    want = [[dataset.number_at(start + place) for place in range(64)] for start in starts]
    assert batch.segments.tolist() == want
    assert any(len(set(row)) > 1 for row in want)  # else the test would prove little
    halves = batch.cut(2)
    assert halves.segments is not None
    assert halves.segments.flatten().tolist() == batch.segments.flatten().tolist()
    assert halves.segments.shape == halves.tokens.shape == (2 * rows.count, 32)


def test_too_small_a_corpus_says_how_small(world: World) -> None:
    with pytest.raises(UserError, match=r"too small to train on: [\d,]+ tokens, at least 6,400,001 are needed"):
        Rows(world.dataset, 100_000, seed=0)
