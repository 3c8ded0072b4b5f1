"""A small corpus, curated and packed once for all data tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from underlay.data import Corpus, CurateConfig, Dataset, GatherConfig, PackConfig, TagConfig, curate, gather, pack, tag
from underlay.text import Tokenizer, train_tokenizer


@dataclass
class World:
    raw: Corpus
    corpus: Corpus
    tokenizer: Tokenizer
    folder: Path

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.folder)

    @property
    def heldout(self) -> Dataset:
        return Dataset(self.folder, "heldout")


@pytest.fixture(scope="session")
def world(code: list[Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    folders = [tmp_path_factory.mktemp(name) for name in ("raw", "corpus", "dataset", "attributes")]
    raw = gather(GatherConfig(source=tuple(map(str, code))), folders[0])
    corpus = curate(raw, tag(raw, TagConfig(), folders[3]), CurateConfig(), folders[1])
    tokenizer = train_tokenizer((document.text for document in corpus), 600)
    pack(corpus, tokenizer, PackConfig(heldout=0.2), folders[2])
    return World(raw, corpus, tokenizer, folders[2])
