"""What has to be beaten: always the same answer, and the classifier that one would have used before.

The classifier is scikit-learn's: TF-IDF of words, word pairs and character n-grams, and a multinomial logistic
regression, whose regularisation is chosen on a tenth of the training texts and which then learns from all of them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from underlay.adapt.prompting.answer import Prediction
from underlay.errors import UserError

_STRENGTHS = (1.0, 10.0, 100.0)
"""Of the regularisation, inverse: scikit-learn's C."""
_ROUNDS = 300


class Majority:
    """The answer that is right most often."""

    def __init__(self, answers: Sequence[str]) -> None:
        """answers: those that are right for what is learned from; of equally frequent ones the first by name."""
        counts = Counter(answers)
        self.answer = min(counts, key=lambda one: (-counts[one], one))
        self.confidence = counts[self.answer] / len(answers)

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """The same for every text."""
        return [Prediction(self.answer, self.confidence) for _ in texts]


class Classical:
    """TF-IDF with logistic regression."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str], seed: int = 0) -> None:
        """Learn. Raises UserError where there is but one label, or no text holds a word."""
        from sklearn.model_selection import train_test_split

        if len(set(labels)) < 2:
            raise UserError(f"there is nothing to tell apart: all texts have the label {labels[0]!r}")
        held = max(len(texts) // 10, 1)
        kept, tried = train_test_split(range(len(texts)), test_size=held, random_state=seed)
        some: Any = (
            [[texts[i] for i in part] for part in (kept, tried)],
            [[labels[i] for i in p] for p in (kept, tried)],
        )
        (known, unknown), (said, right) = some
        self.strength = _STRENGTHS[0]
        if len(set(said)) > 1:
            scores = {c: _learned(known, said, c).score(unknown, right) for c in _STRENGTHS}
            self.strength = max(scores, key=lambda c: (scores[c], -c))
        self._model = _learned(texts, labels, self.strength)

    @property
    def parameters(self) -> int:
        """How many numbers it learned."""
        fitted = self._model[-1]
        return int(fitted.coef_.size + fitted.intercept_.size)

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """The likeliest label of each text."""
        shares = self._model.predict_proba(texts)
        best = shares.argmax(1)
        names = self._model.classes_
        return [Prediction(str(names[place]), float(row[place])) for row, place in zip(shares, best, strict=True)]


def _learned(texts: Sequence[str], labels: Sequence[str], strength: float) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words, single = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), r"(?u)\b\w+\b"
    words.set_params(token_pattern=single)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    model = make_pipeline(make_union(words, letters), LogisticRegression(C=strength, max_iter=_ROUNDS, tol=1e-3))
    try:
        return model.fit(texts, labels)
    except ValueError as error:
        raise UserError(f"TF-IDF: {error}; the texts hold no words to learn from") from error
