"""A small reader of Protocol Buffers' wire format (protobuf.dev, "Encoding"): enough for a SentencePiece model.

A message is a list of fields: a number that says which, a type that says how long, and the value. Lengths are checked
against what is there before anything is taken, and messages are only opened as deep as the caller goes.
"""

from collections.abc import Iterator

Value = int | bytes


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """(number, value) of a message's fields: integers, or bytes for all other types.

    Raises ValueError where the message ends too early or has a type that is not in use.
    """
    at = 0
    while at < len(data):
        key, at = _integer(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _integer(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _integer(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of type {kind}")
        if length > len(data) - at:
            raise ValueError("it ends in the middle of a field")
        yield number, data[at : at + length]
        at += length


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; at most ten bytes."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    raise ValueError("a number without an end")
