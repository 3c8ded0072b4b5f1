import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from underlay.generate.stop import TextStream

LETTERS = st.text(st.sampled_from("ab🦊é日"), max_size=30)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    shown = []
    for piece in pieces:
        shown.append(stream.push(piece))
        stream.check()
    shown.append(stream.push(b"", last=True))
    stream.check()
    return shown, stream.stopped


@given(st.one_of(st.text(max_size=30).map(str.encode), st.binary(max_size=30)), st.lists(st.integers(0), max_size=9))
def test_pieces_join_to_the_text_however_it_is_cut(data: bytes, places: list[int]) -> None:
    shown, stopped = run(cut(data, places))
    assert "".join(shown) == data.decode("utf-8", "replace")
    assert not stopped


def by_character(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        hits = [s for s in stop if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


@given(
    LETTERS, st.lists(st.text(st.sampled_from("ab🦊é日"), min_size=1, max_size=4), max_size=3), st.lists(st.integers(0))
)
def test_stop_strings_act_as_if_read_by_character(text: str, stop: list[str], places: list[int]) -> None:
    shown, stopped = run(cut(text.encode(), places), tuple(stop))
    assert ("".join(shown), stopped) == by_character(text, tuple(stop))


@given(
    st.text(st.sampled_from("ab🦊"), max_size=40),
    st.lists(st.text(st.sampled_from("ab🦊"), min_size=1, max_size=8), min_size=1, max_size=5),
    st.lists(st.integers(0)),
)
def test_what_is_shown_never_ends_in_what_may_become_a_stop_string(
    text: str, stop: list[str], places: list[int]
) -> None:
    stream, shown, read = TextStream(tuple(stop)), "", b""
    for piece in cut(text.encode(), places):
        read += piece
        shown += stream.push(piece)
        known = read.decode("utf-8", "ignore")
        if stream.stopped:
            assert not any(s in shown for s in stop)
            return
        # All is shown but the longest end that begins a stop string, so nothing is held back without need.
        held = max(n for n in range(len(known) + 1) if n == 0 or any(s.startswith(known[-n:]) for s in stop))
        assert shown == known[: len(known) - held]


def test_hostile_stop_strings_cost_a_few_steps_a_character() -> None:
    stops = tuple("a" * (255 - n) + "b" * (n + 1) for n in range(16))
    stream = TextStream(stops)
    steps = 0
    automaton = stream._automaton
    assert automaton is not None

    class Counted(list[int]):
        def __getitem__(self, index: Any) -> Any:
            nonlocal steps
            steps += 1
            return super().__getitem__(index)

    automaton._shorter = Counted(automaton._shorter)
    text = ("a" * 254 + "c") * 40
    assert "".join(stream.push(char.encode()) for char in text) == text
    assert steps <= len(text)


def test_no_part_of_a_stop_string_is_shown() -> None:
    stream = TextStream(("<end>",))
    assert [stream.push(piece) for piece in (b"a<", b"e", b"x<en", b"d", b">tail", b"more")] == [
        "a",
        "",
        "<ex",
        "",
        "",
        "",
    ]
    assert stream.stopped


def test_the_stop_string_that_is_complete_first_counts() -> None:
    for pieces in ([b"xabc"], [b"x", b"a", b"b", b"c"]):
        assert "".join(run(pieces, ("abc", "b"))[0]) == "xa"
        assert "".join(run(pieces, ("b", "ab"))[0]) == "x"


def test_characters_wait_for_all_their_bytes() -> None:
    stream = TextStream()
    fox = "🦊".encode()
    assert [stream.push(fox[i : i + 1]) for i in range(4)] == ["", "", "", "🦊"]
    assert stream.push(fox[:2]) == ""
    assert stream.push(b"", last=True) == "\ufffd"


def test_what_was_held_back_comes_at_the_end() -> None:
    assert run([b"so <en"], ("<end>",)) == (["so ", "<en"], False)
