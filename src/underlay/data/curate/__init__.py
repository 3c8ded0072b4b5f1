"""Curate a corpus: taggers write attributes beside the documents, rules over attributes decide which of them stay.

`tag` looks at every text once. `curate` never looks at a text to decide; so thresholds are moved in seconds, and
whoever asks why a document went finds the figures still there.
"""

from underlay.data.curate.attributes import Attributes
from underlay.data.curate.classifier import Classifier, ClassifierConfig
from underlay.data.curate.curate import curate, funnel
from underlay.data.curate.decide import CurateConfig
from underlay.data.curate.tag import tag
from underlay.data.curate.taggers import MinHashConfig, TagConfig

__all__ = [
    "Attributes",
    "Classifier",
    "ClassifierConfig",
    "CurateConfig",
    "MinHashConfig",
    "TagConfig",
    "curate",
    "funnel",
    "tag",
]
