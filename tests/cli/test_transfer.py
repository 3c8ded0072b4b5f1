"""Models in and out through the command line, and all that can be done with one that was brought."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import foreign
import gguf
import httpx
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from underlay.cli import app
from underlay.cli.transfer import fitting_name

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("folders")
    foreign.llama(home / "tiny llama (v1)")
    foreign.qwen(home / "qwen")
    foreign.qwen(home / "base", template=False)
    foreign.bert(home / "bert")
    return home


@pytest.fixture(scope="module")
def library(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for folder in folders.iterdir():
        assert underlay("library", "import", str(folder), library=root).exit_code == 0
    return root


def underlay(*arguments: str, library: Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=typed, env={"UNDERLAY_LIBRARY": str(library), "COLUMNS": "200"})


def said(*arguments: str, library: Path, typed: str | None = None) -> str:
    result = underlay(*arguments, library=library, typed=typed)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def wrong(complaint: str, *arguments: str, library: Path) -> None:
    result = underlay(*arguments, library=library)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1
    assert complaint in errors[0]


def config_of(name: str, library: Path) -> Path:
    return Path(json.loads(said("library", "show", f"model:{name}", "--json", library=library))["folder"])


# --- in ---


def test_import_says_what_it_brought_and_what_to_do_next(folders: Path, tmp_path: Path) -> None:
    out = said("library", "import", str(folders / "tiny llama (v1)"), library=tmp_path)
    for words in ("model:tiny-llama-v1@", "llama, 37.8k parameters in float32", "128 tokens", "apache-2.0"):
        assert words in out
    assert "Next: underlay chat model:tiny-llama-v1" in out
    again = json.loads(said("library", "import", str(folders / "tiny llama (v1)"), "--json", library=tmp_path))
    assert again["reused"]
    assert again["reference"] in out
    assert (again["family"], again["context"], again["licence"], again["left_out"]) == ("llama", 128, "apache-2.0", [])
    out = said("library", "import", str(folders / "bert"), "--name", "words", library=tmp_path)
    assert 'Next: underlay fill model:words "Paris is the [MASK] of France."' in out
    assert "licence" in out
    assert "unknown" in out
    out = said("library", "import", str(folders / "base"), library=tmp_path)
    assert "Next: underlay generate model:base" in out


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/My Model (v2)", "My-Model-v2"),
        ("a/.hidden.", "hidden"),
        ("a/größe", "gr-e"),
        ("a/___", "model"),
        ("hub/models--org--tiny-lm/snapshots/0123abc", "tiny-lm"),
    ],
)
def test_names_are_made_fit_for_references(path: str, name: str) -> None:
    assert fitting_name(Path(path)) == name


def test_what_cannot_be_imported_is_one_line(folders: Path, tmp_path: Path) -> None:
    wrong("no such folder", "library", "import", str(tmp_path / "none"), library=tmp_path)
    wrong("is no reference", "library", "import", str(folders / "bert"), "--name", "../x", library=tmp_path)
    pickled = shutil.copytree(folders / "bert", tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    wrong("pytorch_model.bin", "library", "import", str(pickled), library=tmp_path)
    odd = shutil.copytree(folders / "bert", tmp_path / "odd")
    foreign.change(odd, twist=3)
    wrong("pass --ignore twist", "library", "import", str(odd), library=tmp_path)
    assert "model:odd@" in said("library", "import", str(odd), "--ignore", "twist", library=tmp_path)
    half = shutil.copytree(folders / "bert", tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (half / name).unlink()
    wrong("no tokenizer", "library", "import", str(half), library=tmp_path)
    assert "model:half" not in said("library", "ls", library=tmp_path)


def test_a_brought_model_is_an_artifact_like_any_other(library: Path) -> None:
    assert "model:qwen@" in said("library", "ls", "model", library=library)
    shown = said("library", "show", "model:tiny-llama-v1", library=library)
    assert "made by" in shown
    assert "import" in shown
    assert "licence: apache-2.0" in shown
    assert "nothing" in said("library", "lineage", "model:qwen", library=library)
    assert "0 damaged" in said("library", "verify", library=library)


# --- what can be done with it ---


def test_generate_writes_what_transformers_writes(folders: Path, library: Path) -> None:
    for name, folder in {"tiny-llama-v1": "tiny llama (v1)", "qwen": "qwen"}.items():
        command = ("generate", f"model:{name}", "Paris is", "--max-tokens", "12", "--temperature", "0", "--json")
        answer = json.loads(said(*command, library=library))
        model = AutoModelForCausalLM.from_pretrained(folders / folder)
        tokenizer = AutoTokenizer.from_pretrained(folders / folder)
        prompt = tokenizer("Paris is", return_tensors="pt").input_ids
        assert answer["tokens"]["prompt"] == prompt.shape[1]
        seen = torch.ones_like(prompt)
        theirs = model.generate(prompt, attention_mask=seen, max_new_tokens=12, do_sample=False, pad_token_id=0)
        theirs = theirs[0, prompt.shape[1] :]
        assert answer["text"] == tokenizer.decode(theirs[: answer["tokens"]["completion"]], skip_special_tokens=True)


def test_an_empty_prompt_needs_something_to_begin_with(library: Path) -> None:
    assert underlay("generate", "model:tiny-llama-v1", "", "--max-tokens", "3", library=library).exit_code == 0
    wrong("no token that begins a text", "generate", "model:qwen", "", library=library)


def test_chat_by_the_template_it_brought(library: Path) -> None:
    out = said("chat", "model:qwen", "--max-tokens", "4", library=library, typed="hello\n\nagain\n\n")
    assert out.count("> ") >= 3
    wrong("neither marks of turns nor a chat template", "chat", "model:base", library=library)


def test_what_it_cannot_do_is_one_line(library: Path) -> None:
    wrong("was imported", "trace", "model:qwen", "text", library=library)
    wrong("was imported", "generate", "model:qwen", "text", "--trace", library=library)
    wrong("this needs a model that writes on", "generate", "model:bert", "text", library=library)
    wrong("this needs a model that writes on", "serve", "model:bert", library=library)
    wrong("no tokens for prefix, suffix and middle", "fill", "model:qwen", "a [MASK]", library=library)
    wrong(
        "--seed is for decoders, and a bert is none", "fill", "model:bert", "a [MASK]", "--seed", "1", library=library
    )
    wrong("--top is for encoders, and a qwen2 is none", "fill", "model:qwen", "a", "--top", "1", library=library)
    wrong("write [MASK] where a word is to be filled in", "fill", "model:bert", "Paris", library=library)
    wrong("text 2 is empty", "embed", "model:qwen", "a", "", library=library)


def test_fill_shows_the_likeliest_words_and_the_text(library: Path) -> None:
    command = ("fill", "model:bert", "Paris is the <mask> of [MASK].", "--top", "3")
    found = json.loads(said(*command, "--json", library=library))
    assert [len(mask) for mask in found["masks"]] == [3, 3]
    best = [mask[0] for mask in found["masks"]]
    assert found["text"].startswith("Paris is the")
    assert all(guess["text"].strip() in found["text"] for guess in best)
    out = said(*command, library=library)
    assert out.splitlines()[0] == found["text"]
    for mask in found["masks"]:
        for guess in mask:
            assert f"{guess['probability']:.2%}  {guess['text'].strip()}" in out


def test_embed_gives_vectors_and_compares_texts(library: Path) -> None:
    found = json.loads(said("embed", "model:bert", "Paris", "Berlin", "--json", library=library))
    vectors = torch.tensor([row["vector"] for row in found["embeddings"]])
    assert vectors.shape == (2, found["width"])
    assert found["pooling"] == "mean"
    out = said("embed", "model:bert", "Paris", "Berlin", library=library)
    assert f"{torch.nn.functional.cosine_similarity(*vectors, dim=0):.3f}" in out
    narrow = said("embed", "model:bert", "Paris", "Berlin is old " * 30, library=library)
    assert "1.000" in narrow
    assert "..." in narrow
    assert "26 more" in said("embed", "model:qwen", "Paris", library=library)
    lines = said("embed", "model:bert", "-", library=library, typed="one\n" * 11 + "two\n")
    assert "nearest" in lines
    assert "note: 1 of 2 texts" in underlay("embed", "model:bert", "a " * 200, "b", library=library).stderr


def test_serve_converses_by_the_template(library: Path) -> None:
    command = [sys.executable, "-m", "underlay", "serve", "model:qwen", "--port", "0", "--library", str(library)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "was imported" in process.stdout.readline()
        url = process.stdout.readline().split(" at ")[1].split()[0].rstrip("/")
        card = httpx.get(f"{url}/v1/models").json()["data"][0]
        assert (card["chat"], card["traceable"]) == (True, False)
        body = {"model": card["id"], "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body).json()
        assert answer["usage"]["completion_tokens"] == 3
    finally:
        process.terminate()
        process.wait(20)


# --- out ---


@pytest.mark.parametrize("name", ["tiny-llama-v1", "qwen", "bert"])
def test_export_for_transformers_and_back_is_the_same_model(name: str, library: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    command = ("library", "export", f"model:{name}", str(target), "--format", "hf")
    assert f"as {target}" in said(*command, library=library)
    AutoModel.from_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.decode(tokenizer("Paris is").input_ids, skip_special_tokens=True).lower() == "paris is"
    said("library", "import", str(target), "--name", "back", library=tmp_path / "library")
    back, first = config_of("back", tmp_path / "library"), config_of(name, library)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (back / file).read_bytes() == (first / file).read_bytes()
    wrong("is there already", *command, library=library)
    assert underlay(*command, "--force", library=library).exit_code == 0


def test_export_for_llama_cpp(library: Path, tmp_path: Path) -> None:
    target = tmp_path / "qwen.gguf"
    command = ("library", "export", "model:qwen", str(target), "--format", "gguf")
    found = json.loads(said(*command, "--type", "q8_0", "--json", library=library))
    assert found["bytes"] == target.stat().st_size
    reader = gguf.GGUFReader(target)
    assert reader.get_field("general.architecture").contents() == "qwen2"
    wrong("is there already", *command, library=library)
    wrong("no way to store weights", *command, "--force", "--type", "Q3", library=library)


def test_force_takes_nothing_but_models(library: Path, tmp_path: Path) -> None:
    def refused(complaint: str, target: Path | str, form: str = "hf") -> None:
        wrong(complaint, "library", "export", "model:qwen", str(target), "--format", form, "--force", library=library)

    precious = tmp_path / "kept" / "thesis.tex"
    said("library", "export", "model:qwen", str(precious.parent), "--format", "hf", library=library)
    precious.write_text("mine")
    refused("thesis.tex", precious.parent)
    refused("gguf is one file", precious.parent, "gguf")
    refused("is a file", precious)
    refused("is no folder", precious / "below")
    refused("inside a library", library / "model" / "qwen" / "mine")
    (tmp_path / "link").symlink_to(precious.parent)
    refused("is a link", tmp_path / "link")
    assert precious.read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    wrong("--type is for", "library", "export", "model:qwen", "x", "--format", "hf", "--type", "F32", library=library)


def test_all_tokens_that_end_an_answer_go_with_the_model(folders: Path, tmp_path: Path) -> None:
    source = tmp_path / "several"
    shutil.copytree(folders / "qwen", source)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    library = tmp_path / "library"
    said("library", "import", str(source), library=library)
    said("library", "export", "model:several", str(tmp_path / "out"), "--format", "hf", library=library)
    ends = transformers.GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert {2, 5} <= set(ends)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense:\nlanguage: en\n---\n", "unknown"),
        ("---\nlicense:\n- mit\n---\n", "unknown"),
        ("# A page\nlicense: mit\n", "unknown"),
        ("---\nlanguage: en\nlicense: 'mit'\n---\n", "mit"),
    ],
)
def test_a_licence_is_read_where_it_stands(folders: Path, tmp_path: Path, card: str, licence: str) -> None:
    source = tmp_path / "licensed"
    shutil.copytree(folders / "qwen", source)
    (source / "README.md").write_text(card)
    found = json.loads(said("library", "import", str(source), "--json", library=tmp_path / "library"))
    assert found["licence"] == licence


def test_the_licence_goes_with_the_model(folders: Path, tmp_path: Path) -> None:
    source = tmp_path / "licensed"
    shutil.copytree(folders / "qwen", source)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    library = tmp_path / "library"
    assert "apache-2.0" in said("library", "import", str(source), library=library)
    said("library", "export", "model:licensed", str(tmp_path / "out"), "--format", "hf", library=library)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n---\n")
    assert "model:licensed@" in card
    assert "apache-2.0" in said("library", "import", str(tmp_path / "out"), "--name", "again", library=library)
