"""Our server before vLLM, of which a stand-in takes the place: see `fake_vllm`."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve import fake_vllm
from serve.world import make_adapter, make_model, prompt_of
from underlay.errors import UserError
from underlay.generate import Constraint, Engine, ParameterError, Request, Sampling, ServingEngine
from underlay.library import Artifact, Library
from underlay.serve import create_app
from underlay.serve.vllm import VllmEngine, exported
from underlay.text import Special

SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_model(Library(tmp_path_factory.mktemp("vllm") / "library"))


@pytest.fixture(scope="module")
def whole(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(artifact, tmp_path_factory.mktemp("exports"))


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)


@pytest.fixture
def engine(artifact: Artifact, whole: Path) -> VllmEngine:
    return VllmEngine(artifact.folder, whole, slots=4)


@pytest.fixture(scope="module")
def own(artifact: Artifact) -> Engine:
    return Engine.load(artifact.folder, 4, "float32")


def run(engine: ServingEngine, requests: list[Request]) -> list[Any]:
    replies = [engine.submit(request) for request in requests]
    said: dict[Any, str] = dict.fromkeys(replies, "")
    while engine.busy:
        for event in engine.step():
            said[event.handle] += event.text
    answers = [reply.answer() for reply in replies]
    assert [said[reply] for reply in replies] == [answer.text for answer in answers]
    return answers


SAMPLINGS = [
    Sampling(temperature=0),
    Sampling(seed=5),
    Sampling(seed=-1),
    Sampling(temperature=1.5, top_k=7, seed=2**63 - 1),
    Sampling(top_p=0.6, seed=1),
    Sampling(temperature=2, min_p=0.3, seed=1),
    Sampling(top_p=0),
    Sampling(repetition=1.7, presence=1.5, frequency=-0.5),
    Sampling(bias={70: 3.0, 71: -2.5}),
    Sampling(bias={70: 100}),
    Sampling(temperature=0, bias={70: -100}),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_every_setting_arrives(engine: VllmEngine, own: Engine, artifact: Artifact, sampling: Sampling) -> None:
    request = Request(prompt_of(artifact), 24, sampling, logprobs=3)
    if sampling.seed == -1:  # the same request may be called otherwise, but never left to chance
        assert run(engine, [request])[0].ids == run(engine, [request])[0].ids
        request = replace(request, sampling=replace(sampling, seed=2**63 - 1))
    answer, expected = run(engine, [request])[0], own.generate([request])[0]
    assert answer.ids == expected.ids
    assert answer.text == expected.text
    assert answer.finish == expected.finish
    assert answer.logprobs == expected.logprobs
    assert answer.prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize("burst", [1, 3, 50])
def test_stops_prompts_and_lengths_are_as_ours(
    engine: VllmEngine, own: Engine, artifact: Artifact, burst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_vllm.LLMEngine, "burst", burst)
    ids = prompt_of(artifact)
    plain = own.generate([Request(ids, 40, Sampling(seed=1))])[0]
    middle = plain.text[len(plain.text) // 2 :][:2]
    requests = [
        Request(ids, 40, Sampling(seed=1)),
        Request(ids, 40, Sampling(seed=1), stop=(middle,)),
        Request(ids, 40, Sampling(seed=1), stop_ids=frozenset({plain.ids[5]})),
        Request(ids, 40, Sampling(seed=1), stop_ids=frozenset()),
        Request(ids, 1, prompt_logprobs=2, logprobs=0),
        Request(ids * 40, 30, truncate=True),
        Request(ids, 12, salt="pepper"),
        *Request(ids, 9, Sampling(seed=3)).choices(3),
    ]
    answers, expected = run(engine, requests), own.generate(requests)
    for answer, other in zip(answers, expected, strict=True):
        assert replace(answer, cached_tokens=0) == replace(other, cached_tokens=0)
    assert middle not in answers[1].text
    assert answers[1].finish == "stop"
    assert len(answers[1].ids) < 40
    assert answers[5].truncated_tokens > 0
    run(engine, [requests[1]])  # alone, so that nothing waits until vLLM is done by itself
    assert not engine._engine.requests, "vLLM still works on what has ended here"
    assert engine.running + engine.waiting == 0


def test_only_what_the_request_names_ends_an_answer(engine: VllmEngine, own: Engine, artifact: Artifact) -> None:
    end = Sampling(bias={own.tokenizer.special(Special.EOS): 100})
    for stop_ids, finish, length in ((None, "stop", 1), (frozenset(), "length", 6)):
        answer = run(engine, [Request(prompt_of(artifact), 6, end, stop_ids=stop_ids)])[0]
        assert (answer.finish, len(answer.ids)) == (finish, length)


def test_prompts_are_remembered_within_their_salt(engine: VllmEngine, artifact: Artifact) -> None:
    ids = prompt_of(artifact) * 4
    for salt, remembered in (("", False), ("", True), ("pepper", False), ("pepper", True)):
        assert bool(run(engine, [Request(ids, 2, salt=salt)])[0].cached_tokens) == remembered


def test_forms_are_held_to(engine: VllmEngine, artifact: Artifact) -> None:
    ids = prompt_of(artifact)
    forms = [
        Constraint(json_schema=json.dumps(SCHEMA)),
        Constraint(regex="[a-f]{3}"),
        Constraint(choices=("no", "yes")),
    ]
    requests = [Request(ids, 30, Sampling(seed=seed), constraint=form) for form in forms for seed in range(3)]
    # Ids that end it are another matter than the one by which vLLM says that a form is complete.
    requests.append(Request(ids, 30, constraint=forms[2], stop_ids=frozenset()))
    texts = [answer.text for answer in run(engine, requests)]
    assert all(json.loads(text)["n"] in (1, 22) for text in texts[:3])
    assert all(re.fullmatch("[a-f]{3}", text) for text in texts[3:6])
    assert set(texts[6:]) <= {"no", "yes"}


@pytest.mark.parametrize(
    ("parameter", "change"),
    [
        ("typical", {"sampling": Sampling(typical=0.5)}),
        ("temperature", {"sampling": Sampling(temperature=0.005)}),
        ("temperature", {"sampling": Sampling(temperature=3)}),
        ("bias", {"sampling": Sampling(bias={10**6: 1})}),
        ("prompt", {"prompt": [10**6]}),
        ("max_tokens", {"max_tokens": 191}),
        ("adapter", {"adapter": "none"}),
        ("constraint", {"constraint": Constraint(regex="(a")}),
        ("constraint", {"constraint": Constraint(json_schema="{")}),
        ("stop_token_ids", {"stop_ids": frozenset({10**6})}),
    ],
)
def test_what_cannot_be_honoured_is_named(
    engine: VllmEngine, artifact: Artifact, parameter: str, change: dict[str, Any]
) -> None:
    request = replace(Request(prompt_of(artifact), 4), **change)
    with pytest.raises(ParameterError) as error:
        engine.submit(request)
    assert error.value.parameter == parameter
    assert not engine.busy


def test_a_cancelled_request_is_aborted_at_once(engine: VllmEngine, artifact: Artifact) -> None:
    ids = prompt_of(artifact)
    stays, goes = (engine.submit(Request(ids, 20, Sampling(seed=seed), stop_ids=frozenset())) for seed in (1, 2))
    engine.step()
    assert engine.running == 2
    goes.cancel()
    assert [event.finish for event in engine.step() if event.handle is goes] == ["cancelled"]
    assert engine._engine.aborted == ["1"]
    stays.cancel()
    assert [event.finish for event in engine.step()] == ["cancelled"]  # and vLLM is not waited for
    assert not engine.busy


def test_adapters_answer_by_name(artifact: Artifact, whole: Path, own: Engine, tmp_path: Path) -> None:
    one, two = make_adapter(tmp_path / "one", 1), make_adapter(tmp_path / "two", 2, rank=9)
    engine = VllmEngine(artifact.folder, whole, 4, adapters={"one": one}, growing=True)
    args = engine._engine.args
    assert (args.enable_lora, args.max_lora_rank) == (True, 64)
    engine.add_adapter("two", engine.read_adapter(two))
    fresh = Engine.load(artifact.folder, 4, "float32")
    for name, folder in (("one", one), ("two", two)):
        fresh.add_adapter(name, fresh.read_adapter(folder))
    requests = [Request(prompt_of(artifact), 16, Sampling(temperature=0), adapter=a) for a in ("one", None, "two")]
    answers = run(engine, requests)
    assert [answer.ids for answer in answers] == [answer.ids for answer in fresh.generate(requests)]
    assert len({tuple(answer.ids) for answer in answers}) == 3
    reply = engine.submit(requests[0])
    with pytest.raises(UserError, match="still answering"):
        engine.drop_adapter("one")
    reply.cancel()
    engine.step()
    engine.drop_adapter("one")
    assert engine.adapters == ["two"]
    engine.add_adapter("one", engine.read_adapter(two))  # the stand-in refuses a name that it has seen
    assert run(engine, [requests[0]])[0].ids == answers[2].ids
    large = make_adapter(tmp_path / "large", rank=65)
    with pytest.raises(UserError, match="rank is 65, vLLM was started with room for 64"):
        engine.add_adapter("large", large)
    with pytest.raises(UserError, match="made for another"):
        engine.read_adapter(make_adapter(tmp_path / "wide", width=64))
    plain = VllmEngine(artifact.folder, whole)
    assert not plain._engine.args.enable_lora


def test_its_settings_are_vllms(artifact: Artifact, whole: Path) -> None:
    args = VllmEngine(artifact.folder, whole, 3, "bfloat16", 10**9)._engine.args
    assert (args.max_num_seqs, args.dtype, args.kv_cache_memory_bytes, args.max_model_len) == (
        *(3, "bfloat16", 10**9),
        192,
    )
    with pytest.raises(UserError, match=r"vLLM does not take .*Invalid repository"):
        VllmEngine(artifact.folder, whole / "nowhere")


def test_a_model_is_written_once(artifact: Artifact, tmp_path: Path) -> None:
    first = exported(artifact, tmp_path)
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert exported(artifact, tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert artifact.manifest.version in first.name


def test_without_vllm_it_says_how_to_get_it(artifact: Artifact, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "vllm")
    with pytest.raises(UserError, match="pip install 'vllm"):
        VllmEngine(artifact.folder, whole)


def test_the_server_is_the_same(engine: VllmEngine, own: Engine) -> None:
    body = {"model": "tiny", "prompt": "The quick", "max_tokens": 12, "seed": 4, "logprobs": 2, "n": 2, "stop": ["zq"]}
    replies = []
    for each in (engine, own):
        with TestClient(create_app(each, "tiny"), base_url="http://localhost") as client:
            whole = client.post("/v1/completions", json=body)
            assert whole.status_code == 200, whole.text
            streamed = client.post("/v1/completions", json=body | {"stream": True}).text
            assert streamed.endswith("data: [DONE]\n\n")
            told = [json.loads(line[6:])["choices"][0] for line in streamed.splitlines() if line.startswith("data: {")]
            joined = "".join(choice["text"] for choice in told if choice["index"] == 1)
            assert joined == whole.json()["choices"][1]["text"]
            replies.append(whole.json()["choices"])
            refused = client.post("/v1/completions", json=body | {"typical_p": 0.5})
            assert refused.status_code == (400 if each is engine else 200)
            assert client.get("/ready").status_code == 200
    assert replies[0] == replies[1]


def test_when_vllm_dies_the_clients_hear_of_it(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead() -> None:
        raise RuntimeError("EngineCore encountered an issue")

    monkeypatch.setattr(engine._engine, "step", dead)
    with TestClient(create_app(engine, "tiny"), base_url="http://localhost") as client:
        reply = client.post("/v1/completions", json={"model": "tiny", "prompt": "The"})
        assert reply.status_code == 500
        assert reply.json()["error"]["code"] == "internal_error"
