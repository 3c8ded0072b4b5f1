"""Embeddings that start from what can simply be counted: which token follows which.

The first thing a language model learns is the table of token pairs. It can be counted in seconds, and factored into
embeddings: positive pointwise mutual information of neighbours, reduced to the model's width by a truncated SVD (Levy
and Goldberg 2014, "Neural word embedding as implicit matrix factorization"; smoothed as in Levy et al. 2015, TACL 3;
randomised SVD of Halko et al., arXiv:0909.4061). Training then starts where it would otherwise arrive much later.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SMOOTHING = 0.75
_EXTRA = 16
"""Directions beyond the wanted ones that make the randomised SVD exact enough."""


def spectral_embedding(tokens: NDArray[Any], vocabulary: int, width: int, seed: int) -> Tensor:
    """Embeddings (vocabulary, width) float32 with entries of unit variance; tokens: (n,) integers, n >= 2.

    Tokens that follow and precede the same tokens get similar rows. Where the vocabulary is smaller than the width, the
    directions that counts say nothing about are zero. Tokens that never occur get small rows.
    """
    rows, columns, values = _mutual_information(tokens, vocabulary)
    matrix, transposed = _sparse(rows, columns, values, vocabulary), _sparse(columns, rows, values, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    rank = min(width, vocabulary)
    # Each token is described by what follows it and by what precedes it: [M, M^T].
    basis = torch.randn(vocabulary, min(rank + _EXTRA, vocabulary), generator=generator)
    for _ in range(3):
        basis = torch.linalg.qr(_gram(matrix, transposed, basis)).Q
    values, vectors = torch.linalg.eigh(basis.mT @ _gram(matrix, transposed, basis))
    strongest = values.argsort(descending=True)[:rank]
    singular = values[strongest].clamp(min=0).sqrt()
    factors = (basis @ vectors[:, strongest]) * singular.sqrt()
    embedding = torch.zeros(vocabulary, width)
    embedding[:, :rank] = factors
    # A random rotation spreads the strong directions over all channels, so that no norm or head sees only a few.
    embedding = embedding @ torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    lengths = embedding.norm(dim=1, keepdim=True)
    embedding = embedding / (lengths + 0.1 * lengths.mean() + 1e-12)
    return embedding / (embedding.std() + 1e-12)


def _gram(matrix: Tensor, transposed: Tensor, basis: Tensor) -> Tensor:
    """([M, M^T] [M, M^T]^T) basis, for M and M^T (vocabulary, vocabulary)."""
    return matrix @ (transposed @ basis) + transposed @ (matrix @ basis)


def _sparse(rows: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], size: int) -> Tensor:
    order = np.lexsort((columns, rows))
    starts = np.searchsorted(rows[order], np.arange(size + 1))
    first, column, value = (torch.from_numpy(part) for part in (starts, columns[order], values[order]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse rows a beta
        return torch.sparse_csr_tensor(first, column, value, size=(size, size), check_invariants=True)


def _mutual_information(tokens: NDArray[Any], vocabulary: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Positive pointwise mutual information of neighbouring tokens: (rows, columns, values) of what is not zero."""
    pairs = np.asarray(tokens[:-1], np.int64) * vocabulary + tokens[1:]
    keys, counts = np.unique(pairs, return_counts=True)
    rows, columns = keys // vocabulary, keys % vocabulary
    before = np.bincount(rows, counts, vocabulary) + 1
    after = (np.bincount(columns, counts, vocabulary) + 1) ** _SMOOTHING
    information = np.log(counts * after.sum() / (before[rows] * after[columns]))
    kept = information > 0
    return rows[kept], columns[kept], information[kept].astype(np.float32)
