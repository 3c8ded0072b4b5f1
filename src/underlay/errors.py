"""The two kinds of failure a person can do something about; everything else is a defect and keeps its traceback."""


class UserError(ValueError):
    """What the user asked for cannot be done: one line that says what, where and how to mend it (exit code 2)."""


class MachineError(RuntimeError):
    """The machine gave way (disk full, file unreadable): one line, the library is whole (exit code 1)."""
