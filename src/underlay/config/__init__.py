"""The one config system: typed models, YAML files, `--set a.b=c`.

Every stage, model and artifact is described by a `Config`. Unknown or ill-typed keys are errors that name the key and
the nearest valid one; nothing a user writes is ever ignored. The attribute docstrings under the fields are the
documentation, also in the JSON Schema that editors read.
"""

from underlay.config.base import Config, override, parse, quantity, read_yaml

__all__ = ["Config", "override", "parse", "quantity", "read_yaml"]
