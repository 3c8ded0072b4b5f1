"""Templates to choose: the ids and masks of `transformers`, a model that stops, and no marks that users can forge."""

from pathlib import Path

import pytest
from token_kinds import TEXTS, byte_level
from tokenizers import AddedToken
from transformers import AutoTokenizer

from underlay.errors import UserError
from underlay.text import Message, Special, Tokenizer, render, train_tokenizer
from underlay.text.templates import NAMES, with_template

LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
OWN = (
    "{% for m in messages %}{{ m.role + ':\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
TURNS = [Message("user", "Hi"), Message("assistant", " Größe\n"), Message("user", TEXTS[0]), Message("assistant", "b")]
SYSTEM = Message("system", "Be kind.")
CONFIG = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}


def base(beginning: bool = False) -> Tokenizer:
    """A tokenizer that knows no conversations, but has the marks of all templates."""
    backend = byte_level()
    backend.add_special_tokens([AddedToken(name, special=True) for name in LLAMA3])
    more = {"bos_token": LLAMA3[0], "add_bos_token": True} if beginning else {}
    return Tokenizer(backend, CONFIG | more)


@pytest.mark.parametrize("beginning", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "jinja"])
def test_ids_and_weights_are_those_of_transformers_for_what_was_saved(
    tmp_path: Path, name: str, beginning: bool
) -> None:
    (tmp_path / "own.jinja").write_text(OWN)
    tokenizer = with_template(base(beginning), name if name != "jinja" else str(tmp_path / "own.jinja"))
    tokenizer.save(tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for turns in (TURNS[:2], TURNS, [SYSTEM, *TURNS]):
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        found = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=name != "jinja")
        ids, weights = render(ours, turns)
        assert ids == found["input_ids"]
        if name != "jinja":
            assert weights == found["assistant_masks"]
        prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert render(ours, turns[:-1], reply=True)[0] == prompt == ids[: len(prompt)]
        learned = [index for index, weight in zip(ids, weights, strict=True) if weight]
        assert learned[-1] in ours.stop_ids


@pytest.mark.parametrize(
    ("name", "end"), [("alpaca", "<|endoftext|>"), ("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>")]
)
def test_what_ends_a_turn_ends_generation(name: str, end: str) -> None:
    tokenizer = with_template(base(), name)
    assert {tokenizer.name(index) for index in tokenizer.stop_ids} == {"<|endoftext|>", end}


def test_a_text_begins_once_where_its_tokenizer_begins_it_so() -> None:
    for name in NAMES:
        tokenizer = with_template(base(beginning=True), name)
        bos = tokenizer.special(Special.BOS)
        assert render(tokenizer, TURNS)[0].count(bos) == 1
        assert render(tokenizer, TURNS)[0][0] == bos
        named = base().configured(bos_token=LLAMA3[0])  # GPT-2's way: it has a name, but begins no text
        assert bos not in render(with_template(named, name), TURNS)[0]


def test_the_text_of_alpaca_reads_as_published() -> None:
    tokenizer = with_template(base(), "alpaca")
    assert tokenizer.decode(render(tokenizer, [Message("user", "Name three.\n\nprimes")], reply=True)[0]) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName three.\n\nprimes\n\n### Response:\n"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chatml", "<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\nYo\n<|im_end|>\n<|im_start|>assistant\n"),
        (
            "llama3",
            "".join(
                f"<|start_header_id|>{role}<|end_header_id|>\n\n{said}"
                for role, said in (("user", "Hi<|eot_id|>"), ("assistant", "Yo<|eot_id|>"), ("assistant", ""))
            ),
        ),
    ],
)
def test_the_texts_of_the_others_read_as_their_models_learned_them(name: str, text: str) -> None:
    template = with_template(base(), name).template
    assert template
    turns = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": "Yo\n"}]
    assert template.render(turns, {}, reply=True) == text


def test_our_own_tokenizers_can_take_one() -> None:
    own = train_tokenizer(TEXTS, 300)
    tokenizer = with_template(own, "alpaca")
    assert not tokenizer.native
    assert "### Instruction" in tokenizer.decode(render(tokenizer, TURNS)[0])
    assert own.native


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("chatml", {}, "no token <|im_start|>, and as plain text it could be forged"),
        ("llama3", {}, "no token <|start_header_id|>"),
        ("alpaca", {"eos_token": None}, "no token that ends a text"),
        ("vicuna", {}, "neither alpaca, chatml, llama3 nor a file"),
    ],
)
def test_what_does_not_fit_is_one_line(name: str, config: dict[str, object], said: str) -> None:
    settings = {key: value for key, value in {**CONFIG, **config}.items() if value}
    tokenizer = train_tokenizer(TEXTS, 300) if name == "chatml" else Tokenizer(byte_level(), settings)
    with pytest.raises(UserError) as error:
        with_template(tokenizer, name)
    assert said in str(error.value)


def test_a_template_that_never_ends_an_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "endless.jinja"
    path.write_text(OWN.replace("+ eos_token ", ""))
    with pytest.raises(UserError, match="a model would never learn to stop"):
        with_template(base(), str(path))
    path.write_text("{% for")
    with pytest.raises(UserError, match="is no template"):
        with_template(base(), str(path))
