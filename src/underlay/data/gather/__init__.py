"""Gather: read sources of any kind into a corpus of documents, each with its place in its source and its licence.

`sources` finds the files, `opening` unpacks them as streams, `readers` has a small module for each family of formats,
`pages` draws the text out of HTML and PDF, and `run` puts it all together. A broken file or record never stops the
run: it goes to the ledger with its place and the reason.
"""

from underlay.data.gather.config import GatherConfig
from underlay.data.gather.run import gather
from underlay.data.gather.sources import fingerprint

__all__ = ["GatherConfig", "fingerprint", "gather"]
