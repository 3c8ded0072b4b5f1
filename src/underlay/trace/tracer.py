"""From a model to its training data: the dataset it learned from, that dataset's index, and texts traced in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from underlay.data import Dataset
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.text import Tokenizer
from underlay.trace.index import TraceIndex
from underlay.trace.spans import Trace, trace


@dataclass(frozen=True)
class Tracer:
    """All that is needed to trace a text, opened once."""

    dataset: Dataset
    index: TraceIndex
    tokenizer: Tokenizer

    @classmethod
    def of_index(cls, library: Library, artifact: Artifact) -> Self:
        """Open an index. Raises UserError where the dataset it was built from is gone or was changed."""
        dataset = library.ancestor(artifact, "dataset")
        opened = Dataset(dataset.folder)
        tokenizer = Tokenizer.load(library.ancestor(dataset, "tokenizer").folder)
        return cls(opened, TraceIndex.open(artifact.folder, opened.tokens), tokenizer)

    @classmethod
    def of_model(cls, library: Library, model: Artifact) -> Self:
        """Open the newest index over the data a model was pretrained on. Raises UserError where there is none."""
        line = [model, *library.ancestors(model)]
        for ancestor in line:
            if ancestor.manifest.kind == "dataset":
                indexes = [child for child in library.children(ancestor) if child.manifest.kind == "index"]
                if indexes:
                    return cls.of_index(library, max(indexes, key=lambda index: index.manifest.created))
        brought = [ancestor.reference for ancestor in line if ancestor.manifest.verb == "import"]
        if brought:
            raise UserError(
                f"{brought[0]} was imported: what it learned from is not in the library, so nothing can be traced to it"
            )
        raise UserError(f"{model.reference} has no trace index; add a `trace` stage over its dataset to the recipe")

    def trace(self, query: str | Sequence[int], min_tokens: int = 8, max_matches: int = 3) -> Trace:
        """The spans of a text, or of the tokens of one, that stand word for word in the training data."""
        return trace(query, self.dataset, self.index, self.tokenizer, min_tokens=min_tokens, max_matches=max_matches)
