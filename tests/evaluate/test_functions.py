"""Which functions do something."""

import pytest

from underlay.evaluate.functions import does_something


@pytest.mark.parametrize(
    ("body", "does"),
    [
        ("    pass", False),
        ("    ...", False),
        ('    """Says what it does."""', False),
        ("    return", False),
        ("    return None", False),
        ("    return -1", True),  # an operation, though Python folds it
        ("    return 1", False),
        ("    raise NotImplementedError", False),
        ('    raise NotImplementedError("later")', False),
        ("    raise ValueError(x)", True),
        ("    return x", True),
        ("    x.close()", True),
        ('    """Says what it does."""\n    pass\n    y = x', True),
    ],
)
def test_stubs_do_nothing(body: str, does: bool) -> None:
    assert does_something(f"def f(x):\n{body}\n") == does
    assert does_something(f"@cached\nasync def f(x):\n{body}\n") == does


def test_only_the_function_asked_for_counts() -> None:
    assert not does_something("def f(x):\n    pass\n\ndef g(x):\n    return x\n")
