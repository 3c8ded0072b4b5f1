"""Decontamination: questions of benchmarks that were planted are found, and what is no benchmark's is not."""

import csv
import gzip
import io
import json
import lzma
import random
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from underlay.data import Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.curate.contamination import (
    BenchmarkFile,
    Benchmarks,
    Contamination,
    ContaminationConfig,
    fingerprint,
    items_of,
)
from underlay.data.curate.texts import Texts
from underlay.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_benchmarks = pytest.mark.skipif(not (SHARED / "gsm8k").exists(), reason="../shared/data is not here")
QUESTION = "How many apples does Jane have left when she gives half of her fourteen apples to the neighbours' boy?"
ANSWER = "She has exactly seven apples left, since half of fourteen is seven and she gave the others away."


def benchmark(folder: Path, name: str = "test.jsonl", **fields: str) -> BenchmarkFile:
    record = {"question": QUESTION, "answer": ANSWER, "id": 7} | fields
    (folder / name).write_text(json.dumps(record) + "\n", "utf-8")
    return BenchmarkFile(path=str(folder / name), fields=("question", "answer"))


def found(texts: list[str], *files: BenchmarkFile, words: int = 13) -> list[tuple[int, float, str]]:
    tagger = Contamination(ContaminationConfig(files=files, words=words))
    columns = tagger(Texts(pa.array(texts, pa.large_string())))
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in tagger.fields.items()})
    return [(row["ngrams"], round(row["share"], 3), row["of"]) for row in table.to_pylist()]


def test_what_is_found(tmp_path: Path) -> None:
    file = benchmark(tmp_path)
    n = len(QUESTION.split()) - 12
    texts = [f"Once upon a time. {QUESTION.upper()} The end.", ANSWER[:40], "", f"{QUESTION} {ANSWER}"]
    whole, little, nothing, both = found(texts, file)
    assert whole == (n, 1.0, "test.jsonl")
    assert little == nothing == (0, 0.0, "")
    assert both[0] == n + len(ANSWER.split()) - 12


def test_a_name_can_be_given(tmp_path: Path) -> None:
    other = benchmark(tmp_path, "other.jsonl", question="What else is there to be asked of anybody who knows it all?")
    files = [benchmark(tmp_path), other.model_copy(update={"name": "mine", "fields": ("question",)})]
    texts = ["what else is there to be asked of anybody who knows it all", QUESTION]
    assert [of for _, _, of in found(texts, *files)] == ["mine", "test.jsonl"]


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".txt"])
def test_each_kind_of_file_gives_the_same_items(tmp_path: Path, kind: str, ending: str) -> None:
    items = ['A "quoted", question?', "Ünïcode; and\ttabs", "a third"]
    text = io.StringIO()
    if kind == ".jsonl":
        text.write("".join(json.dumps({"q": item, "other": "x"}) + "\n\n" for item in items))
    elif kind == ".txt":
        text.write("\n\n".join(items))
    else:
        table = csv.writer(text, delimiter="," if kind == ".csv" else "\t")
        table.writerows([("other", "q"), *(("x", item) for item in items)])
    data = b"\xef\xbb\xbf" + text.getvalue().encode()
    path = tmp_path / f"items{kind}{ending}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending](data))
    file = BenchmarkFile(path=str(path), fields=() if kind == ".txt" else ("q",))
    assert [item.strip() for item in items_of(file)] == items


def test_fields_may_lie_deep(tmp_path: Path) -> None:
    record = {"a": {"texts": [{"t": "one"}, {"t": "two"}], "none": None}}
    (tmp_path / "x.jsonl").write_text(json.dumps(record), "utf-8")
    assert list(items_of(BenchmarkFile(path=str(tmp_path / "x.jsonl"), fields=("a.texts.t", "a.none")))) == [
        "one",
        "two",
    ]


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("x.jsonl", '{"q": "a"}', ("question",), "record 1: no field 'question'; there are q"),
        ("x.jsonl", '{"q": 5}', ("q",), "record 1: a text is needed, not 5"),
        ("x.jsonl", '{"q": "a"}\n{', ("q",), "after record 1: "),
        ("x.jsonl", "[" * 100_000, ("q",), "after record 0: "),
        ("x.jsonl", '{"q": "a"}', (), "name the fields"),
        ("x.txt", "a", ("q",), "text has no fields"),
        ("x.bin", "a", ("q",), "with such an ending"),
        ("x.jsonl.gz", "no gzip", ("q",), "after record 0: "),
        ("x.jsonl.xz", "no xz", ("q",), "after record 0: "),
        ("x.csv", "q\n" + "a" * 200_000, ("q",), "field larger than field limit"),
        ("x.jsonl", '{"q": "too short"}', ("q",), "no item of at least 8 words; are q the right fields"),
        ("x.txt", "", (), "no item of at least 8 words"),
    ],
)
def test_what_is_no_benchmark_is_refused(
    tmp_path: Path, name: str, content: str, fields: tuple[str, ...], message: str
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    file = BenchmarkFile(path=str(tmp_path / name), fields=fields)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        Benchmarks.read(ContaminationConfig(files=(file,)))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_files_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the benchmarks' files"):
        Contamination(ContaminationConfig())
    missing = ContaminationConfig(files=(BenchmarkFile(path=str(tmp_path / "no.jsonl"), fields=("q",)),))
    with pytest.raises(UserError, match=r"no\.jsonl"):
        fingerprint(missing)


def test_another_benchmark_is_another_order(tmp_path: Path) -> None:
    config = ContaminationConfig(files=(benchmark(tmp_path),))
    before = fingerprint(config)
    assert before == fingerprint(config)
    benchmark(tmp_path, question="Another question")
    assert fingerprint(config) != before


def decontaminated(folder: Path, documents: list[Document], *files: BenchmarkFile) -> Corpus:
    raw = write_corpus(folder / "raw", documents)
    tags = TagConfig(taggers=("contamination",), contamination=ContaminationConfig(files=files))
    config = CurateConfig(presets=("decontaminated",), near_duplicates=False, redact=None)
    return curate(raw, tag(raw, tags, folder / "tags"), config, folder / "curated")


def test_the_preset_drops_and_the_ledger_says_why(tmp_path: Path) -> None:
    documents = [Document(text, f"{n}", 1, 1, "MIT", "text") for n, text in enumerate((f"Quiz: {QUESTION}", "prose"))]
    corpus = decontaminated(tmp_path, documents, benchmark(tmp_path))
    assert [one.text for one in corpus] == ["prose"]
    (entry,) = corpus.ledger()
    assert (entry.reason, entry.detail) == ("test-questions", "contamination.share = 1")


def shared(name: str) -> list[str]:
    with lzma.open(SHARED / name, "rt", encoding="utf-8") as file:
        return file.readlines()


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> list[BenchmarkFile]:
    """Test questions of GSM8K, MMLU and TruthfulQA."""
    folder = tmp_path_factory.mktemp("mmlu")
    with tarfile.open(SHARED / "mmlu" / "mmlu.tar.xz") as archive:
        for member in archive.getmembers():
            if member.isfile() and "test" in member.name:
                content = archive.extractfile(member)
                assert content
                (folder / Path(member.name).name).write_bytes(content.read())
    subjects = sorted(folder.glob("*.csv"))
    assert len(subjects) == 57
    return [
        BenchmarkFile(path=str(SHARED / "gsm8k" / "test.jsonl.xz"), fields=("question",), name="gsm8k"),
        BenchmarkFile(path=str(SHARED / "truthfulqa" / "TruthfulQA.csv.xz"), fields=("Question",), name="truthfulqa"),
        *(BenchmarkFile(path=str(path), fields=("question",), name="mmlu") for path in subjects),
    ]


@needs_benchmarks
def test_planted_questions_are_all_found_and_prose_is_not(benchmarks: list[BenchmarkFile]) -> None:
    prose = [json.loads(line)["text"] for line in shared("c4-wiki-demo/c4_demo.jsonl.xz")]
    chance = random.Random(0)
    questions = [(file.called(), item) for file in benchmarks for item in items_of(file)]
    questions = [one for one in questions if len(re.findall(r"[^\W\d_]+", one[1])) >= 16]
    planted = chance.sample(questions, 400)
    documents = []
    for name, question in planted:
        lines = prose[chance.randrange(len(prose))].splitlines()
        lines.insert(chance.randrange(len(lines) + 1), question)
        documents.append(Document("\n".join(lines), name, 1, 1, "MIT", "text"))
    tagger = Contamination(ContaminationConfig(files=tuple(benchmarks)))
    columns = tagger(Texts(pa.array([one.text for one in documents], pa.large_string())))
    assert columns["share"].tolist() == [1.0] * len(planted)
    clean = tagger(Texts(pa.array(prose, pa.large_string())))
    assert not (clean["share"] >= 0.5).any()


@needs_benchmarks
def test_questions_that_were_changed_a_little_are_found(benchmarks: list[BenchmarkFile]) -> None:
    chance = random.Random(1)
    gsm8k = [item for item in items_of(benchmarks[0]) if len(item.split()) >= 40]
    changed = []
    for item in gsm8k:
        words = item.split()
        words[chance.randrange(len(words))] = "otherwise"
        changed.append(" ".join(words))
    tagger = Contamination(ContaminationConfig(files=(benchmarks[0],)))
    shares = tagger(Texts(pa.array(changed, pa.large_string())))["share"]
    assert (shares >= 0.5).mean() > 0.9
