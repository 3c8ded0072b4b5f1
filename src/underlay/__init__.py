"""Underlay: one toolkit for the whole life of a foundation model.

Packages, in the order in which data flows through them: `data` gathers, curates and packs documents, `text`
tokenizes, `models` and `train` grow a model, `adapt` fits it to tasks, `evaluate` measures it, `trace` leads each
answer back to the documents it was learned from, `serve` offers it to others. `library` keeps what they make,
`recipe` runs them in order, `cli` is the way in.
"""

__version__ = "0.1.0"
