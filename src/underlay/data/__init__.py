"""From sources to training data: gather documents, curate them, pack them into token shards.

`gather` reads sources into a corpus, `tag` finds attributes of its documents, `curate` removes and mends documents by
them and keeps a ledger of why, `pack` turns a corpus into a memory-mapped `Dataset` that knows which document every
token came from.
"""

from underlay.data.corpus import Corpus
from underlay.data.curate import Attributes, ClassifierConfig, CurateConfig, TagConfig, curate, tag
from underlay.data.dataset import Dataset, Split
from underlay.data.document import Document
from underlay.data.gather import GatherConfig, fingerprint, gather
from underlay.data.masking import Masked, MaskingConfig
from underlay.data.middle import MiddleConfig, Middles
from underlay.data.mixture import MixtureStage, Stages
from underlay.data.pack import PackConfig, pack
from underlay.data.rows import Packing, Rows
from underlay.data.writer import CorpusWriter, write_corpus

__all__ = [
    "Attributes",
    "ClassifierConfig",
    "Corpus",
    "CorpusWriter",
    "CurateConfig",
    "Dataset",
    "Document",
    "GatherConfig",
    "Masked",
    "MaskingConfig",
    "MiddleConfig",
    "Middles",
    "MixtureStage",
    "PackConfig",
    "Packing",
    "Rows",
    "Split",
    "Stages",
    "TagConfig",
    "curate",
    "fingerprint",
    "gather",
    "pack",
    "tag",
    "write_corpus",
]
