"""What several test folders share: a small corpus of real code, and everything made from it."""

import hashlib
import os
import sysconfig
from pathlib import Path

import pytest
from hypothesis import settings

from underlay.models.parts import precision

# How long an example takes depends on the machine; correctness does not.
settings.register_profile("underlay", deadline=None)
settings.load_profile("underlay")
# Numba notices a change of a function, but not of those it calls in other files: each state of them has its own cache.
ROOT = Path(__file__).parent.parent
KERNELS = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ROOT.glob("src/underlay/kernels/*.py"))))
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / f"numba-{KERNELS.hexdigest()[:12]}"))

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture
def bf16_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bfloat16 be computed as such, also on a processor that is slow at it."""
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))


@pytest.fixture(scope="session")
def code() -> list[Path]:
    """Some source files of the standard library, found wherever Python is."""
    return sorted(STDLIB.glob("json/*.py")) + sorted(STDLIB.glob("asyncio/*.py"))[:8]
