"""Languages: the compiled loop gives what the package's own does, and real sentences are told apart."""

import io
import lzma
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from underlay.data.curate.language import Languages
from underlay.data.curate.texts import Texts

SENTENCES = Path(__file__).parents[3] / "shared" / "data" / "lingua-sentences" / "sentences.tar.xz"
THEIRS = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
OURS = Languages()
SAID = {
    "en": "The children went home before it was dark.",
    "de": "Die Kinder gingen nach Hause, bevor es dunkel wurde.",
    "fr": "Les enfants sont rentrés à la maison avant la nuit.",
    "ru": "Дети пошли домой до наступления темноты.",
    "zh": "孩子们在天黑之前回家了。",
    "ar": "عاد الأطفال إلى المنزل قبل حلول الظلام.",
    "sr": "Деца су отишла кући пре мрака, а мајка их је чекала.",
}


def told(texts: list[str]) -> list[tuple[str, float]]:
    codes, chances = OURS(Texts(pa.array(texts, pa.large_string())))
    return list(zip(codes, chances.tolist(), strict=True))


def test_languages_are_told_apart() -> None:
    found = told([*SAID.values(), SAID["de"].upper(), ""])
    assert [code for code, _ in found] == [*SAID, "de", "zxx"]
    assert all(chance > 0.5 for _, chance in found[:-1])


@given(
    st.lists(st.lists(st.sampled_from([*SAID.values(), "é", "e\u0301", " x1 ", "\n", "12:30"]), max_size=6), max_size=4)
)
def test_it_gives_what_the_package_gives(texts: list[list[str]]) -> None:
    lines = ["a ".join(text) for text in texts]
    for (code, chance), text in zip(told(lines), lines, strict=True):
        theirs = THEIRS.rank(text.strip())
        assert chance == pytest.approx(theirs[0][1], abs=1e-3) or not text.strip()
        assert not text.strip() or chance == pytest.approx(dict(theirs)[code], abs=1e-3)


def test_of_a_long_text_the_start_and_the_middle_count() -> None:
    long = SAID["en"] * 400 + SAID["ru"] * 5_000
    assert told([long]) == told([long[:-800] + (SAID["fr"] * 20)[:800]])
    assert told([long]) != told([(SAID["fr"] * 20)[:800] + long[800:]])


@pytest.mark.skipif(not SENTENCES.exists(), reason="needs ../shared/data/lingua-sentences")
def test_real_sentences_of_many_languages() -> None:
    right = total = 0
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(SENTENCES.read_bytes()))) as files:
        for file in files:
            code, content = Path(file.name).stem, files.extractfile(file)
            code = {"nb": "no"}.get(code, code)
            if content is None or code not in OURS.codes:
                continue
            lines = content.read().decode().splitlines()
            found = told([" ".join(lines[at : at + 5]) for at in range(0, 100, 5)])
            right += sum(one == code for one, _ in found)
            total += len(found)
    assert total > 1_000
    assert right / total > 0.95
