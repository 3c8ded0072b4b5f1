"""Engines: whoever does the work, the result has the same bytes."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from underlay.data import CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.curate.engine import Engine, Local, Ray
from underlay.errors import UserError

PROSE = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the morning comes.\n"
RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def ray() -> Iterator[Ray]:
    yield Ray()
    import ray

    ray.shutdown()


def made(engine: Engine | None, folder: Path) -> dict[str, bytes]:
    """The bytes of everything that is made of a small corpus of several stretches."""
    documents = [
        Document(f"{number} {PROSE}" + f"{number % 7} words, " * 8000, f"{number}.txt", 1, 2, "MIT", "text")
        for number in range(150)
    ]
    corpus = write_corpus(folder / "raw", documents)
    assert len(corpus.units()) > 2
    attributes = tag(corpus, TagConfig(), folder / "attributes", engine=engine)
    curate(corpus, attributes, CurateConfig(presets=()), folder / "curated")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_processes_make_the_same_bytes(tmp_path: Path) -> None:
    assert made(Local(1), tmp_path / "one") == made(Local(3), tmp_path / "three")


@pytest.mark.skipif(not RAY, reason="Ray is not installed (an extra: pip install 'underlay[ray]')")
def test_ray_makes_the_same_bytes(ray: Ray, tmp_path: Path) -> None:
    assert made(ray, tmp_path / "ray") == made(Local(1), tmp_path / "one")


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_its_engine_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"pip install 'underlay\[ray\]'"):
        Ray()


def test_an_engine_hands_on_what_goes_wrong(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "raw", [Document(PROSE, "a", 1, 1, "MIT", "text")])
    (corpus.folder / "documents" / "00000.parquet").unlink()
    with pytest.raises(UserError, match="no documents here"):
        tag(corpus, TagConfig(), tmp_path / "attributes", engine=Local(2))
