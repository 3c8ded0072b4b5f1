import json
import re
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from underlay.generate.grammar import MOST_PATTERN, Grammar, GrammarCompiler, GrammarError, compile_grammar
from underlay.generate.request import Constraint, ParameterError, Sampling
from underlay.generate.sampler import Sampler, choose
from underlay.text import Special, Tokenizer

PADDING = 5
STEPS = 400


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, tokenizer.size + PADDING)


def write(grammar: Grammar, tokenizer: Tokenizer, seed: int, steps: int = STEPS) -> str | None:
    """What a model of random logits writes, as the engine would have it; None where it does not come to an end."""
    vocabulary = tokenizer.size + PADDING
    generator = torch.Generator().manual_seed(seed)
    sampler = Sampler(Sampling(seed=seed), [0], vocabulary, grammar)
    stop, ids = tokenizer.stop_ids, list[int]()
    while not sampler.finished:
        if len(ids) == steps:
            return None
        # Ends are made likely, so that texts end before long.
        logits = torch.randn(1, vocabulary, generator=generator)
        for byte in b'"]},':
            logits[0, tokenizer.encode(chr(byte))[0]] += 3
        logits[0, list(stop)] += 3
        accepting = grammar.accepting
        (token,) = choose(logits, [sampler])
        assert token is not None, sampler.problem
        assert token not in stop or accepting
        assert token < tokenizer.size
        assert token in stop or token not in tokenizer.special_ids
        sampler.accept(token)
        sampler.check()
        ids.append(token)
    assert sampler.problem is None
    assert grammar.accepting
    return tokenizer.decode_bytes(ids).decode("utf-8")  # raises where a character is not whole


NAMES = st.sampled_from(["a", "é日", 'x"\\', "🦊", "long name"])
LEAVES = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.lists(st.one_of(st.text(max_size=5), st.integers(-99, 99), st.none()), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    st.text(max_size=6).map(lambda value: {"const": value}),
    st.just({"type": "string", "pattern": "^[a-c]{2,4}$"}),
    st.just({"type": "string", "maxLength": 4}),
    st.just({"type": "integer", "minimum": -3, "maximum": 1200}),
)


def objects(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, schemas, max_size=3).flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties)) if properties else st.nothing()).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": False,
            }
        )
    )


def arrays(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return schemas.map(lambda items: {"type": "array", "items": items, "minItems": 1, "maxItems": 3})


SCHEMAS = st.recursive(
    LEAVES,
    lambda s: st.one_of(objects(s), arrays(s), st.lists(s, min_size=1, max_size=2).map(lambda a: {"anyOf": a})),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(SCHEMAS, st.integers(0, 2**32))
def test_what_is_written_under_a_schema_is_valid(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: Any, seed: int
) -> None:
    grammar = compiler.compile(Constraint(json_schema=json.dumps(schema)), tokenizer.stop_ids)
    text = write(grammar, tokenizer, seed)
    if text is not None:
        jsonschema.validate(json.loads(text), schema)


def test_texts_under_a_schema_come_to_an_end(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "boolean"}, "maxItems": 5}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    for seed in range(20):
        grammar = compiler.compile(Constraint(json_schema=json.dumps(schema)), tokenizer.stop_ids)
        text = write(grammar, tokenizer, seed, 80)
        assert text is not None
        jsonschema.validate(json.loads(text), schema)


def test_json_has_no_room_for_endless_spaces(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.compile(Constraint(json_schema='{"type": "object"}'), tokenizer.stop_ids)
    space = tokenizer.encode(" ")[0]
    for char in ("", "{", '"', "a", '"', ":", " ", "1", ",", " "):
        for token in tokenizer.encode(char):
            grammar.accept(token)
        if not char or char in "{ 1":
            assert not grammar.allowed()[space], char


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\r"])
@pytest.mark.parametrize("before", ["", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":[', '{"a":[1,', '{"a":[]'])
def test_a_second_blank_in_a_row_is_refused(
    compiler: GrammarCompiler, tokenizer: Tokenizer, before: str, blank: str
) -> None:
    grammar = compiler.compile(Constraint(json_schema='{"type": "object"}'), tokenizer.stop_ids)
    for char in before:
        for token in tokenizer.encode(char):
            grammar.accept(token)
    with pytest.raises(GrammarError):  # noqa: PT012 - the first is allowed in places
        for _ in range(2):
            for token in tokenizer.encode(blank):
                grammar.accept(token)


@pytest.mark.parametrize(
    "regex",
    ["[a-z]{3}-[0-9]+", "(foo|bar)+", "日本.{1,3}", "🦊*x", r"a/b\n//c", r"\d{2}:\d{2}", "", r"[^a]{4}", "(?i)yes|no"],
)
def test_what_is_written_under_an_expression_matches(
    compiler: GrammarCompiler, tokenizer: Tokenizer, regex: str
) -> None:
    for seed in range(8):
        text = write(compiler.compile(Constraint(regex=regex), tokenizer.stop_ids), tokenizer, seed)
        assert text is None or re.fullmatch(regex, text), text


CHOICES = st.lists(st.text(st.sampled_from('ab"\\/\n{}|%é日🦊'), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(CHOICES, st.integers(0, 2**32))
def test_what_is_chosen_is_among_the_choices(
    compiler: GrammarCompiler, tokenizer: Tokenizer, choices: list[str], seed: int
) -> None:
    grammar = compiler.compile(Constraint(choices=tuple(choices)), tokenizer.stop_ids)
    assert write(grammar, tokenizer, seed) in choices


def test_every_choice_can_be_made(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    choices = ("日本", "日本語", "🦊", "fox")
    found = {write(compiler.compile(Constraint(choices=choices), tokenizer.stop_ids), tokenizer, s) for s in range(60)}
    assert found == set(choices)


def test_a_text_ends_exactly_where_it_is_complete(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    stop = tokenizer.stop_ids
    grammar = compiler.compile(Constraint(regex="ab*"), stop)
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    assert not grammar.accepting
    assert not grammar.allowed()[list(stop)].any()
    with pytest.raises(GrammarError):
        grammar.accept(min(stop))
    grammar.accept(a)
    assert grammar.accepting
    assert not grammar.finished
    assert grammar.allowed().nonzero()[:, 0].tolist() == sorted(
        {b, *stop} | {t for t in range(tokenizer.size) if re.fullmatch(b"b+", tokenizer.decode_bytes([t]))}
    )
    grammar.accept(min(stop))
    assert grammar.finished
    with pytest.raises(GrammarError):
        grammar.accept(b)


def test_a_text_that_cannot_go_on_is_finished_without_a_stop_id(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.compile(Constraint(choices=("fox",)), frozenset())
    for token in tokenizer.encode("fox"):
        assert not grammar.finished
        grammar.accept(token)
    assert grammar.finished
    assert not grammar.allowed().any()


def test_an_ordinary_token_can_end_a_text(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    newline = tokenizer.encode("\n")[0]
    grammar = compiler.compile(Constraint(regex="[a\n]{2}"), frozenset({newline}))
    assert not grammar.allowed()[newline]


def test_special_tokens_are_never_part_of_a_text(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    mask = compiler.compile(Constraint(regex=".*"), frozenset({tokenizer.special(Special.EOS)})).allowed()
    for index in tokenizer.special_ids - {tokenizer.special(Special.EOS)}:
        assert not mask[index]
    assert not mask[tokenizer.size :].any()


def test_a_wrong_token_is_an_error_that_stays(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.compile(Constraint(choices=("fox",)), tokenizer.stop_ids)
    with pytest.raises(GrammarError):
        grammar.accept(tokenizer.encode("z")[0])
    with pytest.raises(GrammarError):
        grammar.allowed()
    assert not grammar.finished


def test_a_tokenizer_with_marks_for_spaces_is_followed_too() -> None:
    pieces = ["<unk>", "</s>", "▁", "▁a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Backend(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["</s>", "<unk>"])
    tokenizer = Tokenizer(backend, {"eos_token": "</s>", "unk_token": "<unk>"})
    grammar = compile_grammar(Constraint(choices=(" ab", "🦊")), tokenizer, tokenizer.size, frozenset({1}))
    assert grammar.allowed().nonzero()[:, 0].tolist() == [2, 3, 5 + 0x20, 5 + 0xF0]
    for token in (3, 4):
        grammar.accept(token)
    assert grammar.finished


def chain(length: int) -> str:
    links = {f"a{i}": {"properties": {"a": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(length)}
    return json.dumps({"$defs": links | {f"a{length}": {}}, "$ref": "#/$defs/a0"})


def product(parts: int) -> str:
    def options(part: int) -> dict[str, Any]:
        return {"anyOf": [{"type": "object", "properties": {f"k{part}_{i}": {}}} for i in range(10)]}

    return json.dumps({"allOf": [options(part) for part in range(parts)]})


REFUSED = {
    "not JSON": Constraint(json_schema="{"),
    "not a schema": Constraint(json_schema="3"),
    "nothing fits": Constraint(json_schema="false"),
    "contradiction": Constraint(json_schema='{"type": "string", "minLength": 5, "maxLength": 2}'),
    "itself alone": Constraint(json_schema='{"$ref": "#"}'),
    "unknown type": Constraint(json_schema='{"type": "nonsense"}'),
    "unsupported": Constraint(json_schema='{"type": "array", "uniqueItems": true}'),
    "elsewhere": Constraint(json_schema='{"$ref": "http://example.com/schema"}'),
    "dangling": Constraint(json_schema='{"$ref": "#/nowhere"}'),
    "own settings": Constraint(json_schema='{"x-guidance": {"whitespace_flexible": true}}'),
    "half a character": Constraint(json_schema='{"const": "\\ud800"}'),
    "half a choice": Constraint(choices=("\ud800",)),
    "no number": Constraint(json_schema='{"const": NaN}'),
    "deep JSON": Constraint(json_schema='{"items":' * 9000 + "{}" + "}" * 9000),
    "deep": Constraint(json_schema='{"items":' * 500 + "{}" + "}" * 500),
    "deep by reference": Constraint(json_schema=chain(1400)),
    "explosive": Constraint(json_schema=product(8)),
    "huge": Constraint(json_schema=json.dumps({"enum": [f"value {i}" for i in range(10_000)]})),
    "huge choices": Constraint(choices=tuple(f"value {i}" for i in range(10_000))),
    "open": Constraint(regex="(a"),
    "look-ahead": Constraint(regex="(?=a)b"),
    "not UTF-8": Constraint(regex=r"(?-u:\xff)"),
    "trailing backslash": Constraint(regex="a\\"),
    "matches nothing": Constraint(regex=r"[^\x00-\x{10FFFF}]"),
    "nested expression": Constraint(regex="a" + "*" * 3000),
    "long expression": Constraint(regex="a?" * MOST_PATTERN),
    "long pattern": Constraint(json_schema=json.dumps({"items": {"pattern": "a?" * MOST_PATTERN}})),
    "long pattern of names": Constraint(json_schema=json.dumps({"patternProperties": {"a?" * MOST_PATTERN: {}}})),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_one_clear_line(compiler: GrammarCompiler, name: str) -> None:
    with pytest.raises(ParameterError) as caught:
        compiler.compile(REFUSED[name], frozenset())
    assert caught.value.parameter == "constraint"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 260
    assert "llguidance" not in str(caught.value)


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint(json_schema='{"type": "string", "minLength": 1000000}'),
        Constraint(
            json_schema='{"type": "array", "minItems": 1000000, "items": {"type": "array", "minItems": 1000000}}'
        ),
        Constraint(regex="(a|b)*a(a|b){1000}"),
        Constraint(regex="((a|b)*a(a|b){20}){300}"),
        Constraint(regex=r"[\w\d\p{L}&&[^a]]*" * 200),
        Constraint(json_schema=json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(1500)}})),
        Constraint(json_schema=chain(60)),
    ],
)
def test_what_is_costly_fails_alone_or_goes_on(
    compiler: GrammarCompiler, tokenizer: Tokenizer, constraint: Constraint
) -> None:
    try:
        sampler = Sampler(Sampling(), [0], tokenizer.size + PADDING, compiler.compile(constraint, tokenizer.stop_ids))
    except ParameterError:
        return
    logits = torch.zeros(1, tokenizer.size + PADDING)
    for _ in range(60):
        (token,) = choose(logits, [sampler])
        if token is None:
            assert sampler.problem
            assert "\n" not in sampler.problem
            return
        sampler.accept(token)


def test_answers_under_one_constraint_do_not_disturb_each_other(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = Constraint(choices=("fox", "fish"))
    one, two = (compiler.compile(constraint, tokenizer.stop_ids) for _ in range(2))
    for token in tokenizer.encode("fox"):
        one.accept(token)
    assert one.finished
    assert not two.accepting
    assert two.allowed()[tokenizer.encode("f")[0]]
