"""The fast way through a model on a CPU: one C++ call a step, built on first use by the compiler that is there."""

from underlay.generate.native.build import NoLibrary, library
from underlay.generate.native.describe import unsupported
from underlay.generate.native.runner import NativeRunner

__all__ = ["NativeRunner", "NoLibrary", "library", "unsupported"]
