"""Networks for texts, sounds, tables and graphs, by hand, each after its paper.

Needs torch. Recurrent layers keep a workspace that no tensor shows; a graph network adds up messages by index.
"""

# mypy: disable-error-code="no-any-return"
# torch declares that calling a module returns Any.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from benchmarks.architectures.architecture import Architecture, adafactor

VOCABULARY = 10_000
LENGTH = 64


def cross_entropy_of_each(scores: Tensor, ids: Tensor) -> Tensor:
    """The cross-entropy of scores (n, length, classes) at each place."""
    return cross_entropy(scores.flatten(0, 1), ids.flatten())


# Recurrent


class RecurrentLanguageModel(nn.Module):
    """Foretells each token from those before it."""

    def __init__(self) -> None:
        """Two LSTM layers of width 512 with dropout between."""
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 512)
        self.lstm = nn.LSTM(512, 512, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(512, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length) to scores (n, length, vocabulary)."""
        hidden, _ = self.lstm(self.embedding(ids))
        return self.head(hidden)


class RecurrentTagger(nn.Module):
    """Names the class of each frame, by what is before and behind it."""

    def __init__(self) -> None:
        """Three bidirectional GRU layers of width 256."""
        super().__init__()
        self.gru = nn.GRU(80, 256, num_layers=3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(512, 40)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, frames, 80) to scores (n, frames, 40)."""
        hidden, _ = self.gru(frames)
        return self.head(hidden)


def texts(batch_size: int) -> tuple[Tensor, Tensor]:
    """Token ids (n, 64), and the same one place on."""
    ids = torch.randint(VOCABULARY, (batch_size, LENGTH + 1))
    return ids[:, :-1], ids[:, 1:]


def frames(batch_size: int) -> tuple[Tensor, Tensor]:
    """One second of speech as a spectrogram (n, 100, 80), and the class of each frame (n, 100)."""
    return torch.randn(batch_size, 100, 80), torch.randint(40, (batch_size, 100))


# The first transformer


class Translator(nn.Module):
    """torch's own encoder and decoder, between embeddings."""

    def __init__(self) -> None:
        """Three layers each, of width 256."""
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 256)
        self.positions = nn.Parameter(torch.randn(LENGTH, 256) / 16)
        self.transformer = nn.Transformer(256, 4, 3, 3, dim_feedforward=1024, batch_first=True)
        self.head = nn.Linear(256, VOCABULARY)

    def forward(self, source: Tensor, translation: Tensor) -> Tensor:
        """Two texts (n, length) to scores (n, length, vocabulary) of the translation's tokens."""
        ahead = nn.Transformer.generate_square_subsequent_mask(translation.shape[1], device=translation.device)
        read, written = (self.embedding(ids) + self.positions for ids in (source, translation))
        return self.head(self.transformer(read, written, tgt_mask=ahead, tgt_is_causal=True))


def translations(batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A text, its translation, and the translation one place on: (n, 64) each."""
    return torch.randint(VOCABULARY, (batch_size, LENGTH)), *texts(batch_size)


# WaveNet


class Gated(nn.Module):
    """A dilated convolution that sees the past only, gated."""

    def __init__(self, width: int, dilation: int) -> None:
        """Two taps, `dilation` samples apart."""
        super().__init__()
        self.convolution = nn.Conv1d(width, 2 * width, 2, padding=dilation, dilation=dilation)
        self.out = nn.Conv1d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, width, length) to the same, and a contribution to the output."""
        signal, gate = self.convolution(x)[..., : x.shape[-1]].chunk(2, dim=1)
        onward, skipped = self.out(torch.tanh(signal) * torch.sigmoid(gate)).chunk(2, dim=1)
        return x + onward, skipped


class WaveNet(nn.Module):
    """Foretells each sample of a sound, quantized to 256 values."""

    def __init__(self, width: int = 128) -> None:
        """Two stacks of eight layers, whose dilation doubles."""
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.layers = nn.ModuleList(Gated(width, 2**power) for _ in range(2) for power in range(8))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, 256, 1), nn.ReLU(), nn.Conv1d(256, 256, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """(n, length) to scores (n, 256, length)."""
        x = self.embedding(samples).transpose(1, 2)
        total = torch.zeros_like(x)
        for layer in self.layers:
            x, skipped = layer(x)
            total = total + skipped
        return self.head(total)


def sounds(batch_size: int) -> tuple[Tensor, Tensor]:
    """Quantized samples (n, 512), and the same one place on."""
    samples = torch.randint(256, (batch_size, 513))
    return samples[:, :-1], samples[:, 1:]


# DLRM

TABLES = 26
ROWS = 10_000
FACTORS = 32


class Recommender(nn.Module):
    """Clicks from numbers and categories: nearly all parameters are embeddings."""

    def __init__(self) -> None:
        """26 tables, a perceptron for the numbers, and one for the products of all pairs."""
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(ROWS, FACTORS, mode="sum") for _ in range(TABLES))
        self.bottom = nn.Sequential(nn.Linear(13, 512), nn.ReLU(), nn.Linear(512, FACTORS), nn.ReLU())
        pairs = (TABLES + 1) * TABLES // 2
        self.top = nn.Sequential(nn.Linear(pairs + FACTORS, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.head = nn.Linear(256, 1)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Numbers (n, 13) and categories (n, 26, bag) to scores (n,)."""
        dense = self.bottom(numbers)
        bags = [table(categories[:, place]) for place, table in enumerate(self.tables)]
        vectors = torch.stack([dense, *bags], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        rows, columns = torch.triu_indices(TABLES + 1, TABLES + 1, offset=1, device=products.device)
        return self.head(self.top(torch.cat([dense, products[:, rows, columns]], dim=1))).squeeze(1)


def clicks(batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers (n, 13), bags of four categories (n, 26, 4), and whether it was clicked (n,)."""
    categories = torch.randint(ROWS, (batch_size, TABLES, 4))
    return torch.randn(batch_size, 13), categories, torch.rand(batch_size).round()


# A graph network

NODES = 64
EDGES = 256


class GraphNetwork(nn.Module):
    """Adds up the neighbours' features along the edges, layer by layer (the isomorphism network, GIN)."""

    def __init__(self, width: int = 256, depth: int = 5) -> None:
        """A perceptron for each layer."""
        super().__init__()
        self.first = nn.Linear(16, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU())
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Nodes (n, nodes, 16) and edges (n, 2, edges), as pairs of nodes, to scores (n, 10)."""
        graphs, nodes = features.shape[:2]
        start = nodes * torch.arange(graphs, device=edges.device)
        source, destination = (edges + start[:, None, None]).transpose(0, 1).flatten(1)
        x = self.first(features).flatten(0, 1)
        for layer in self.layers:
            x = layer(x.index_add(0, destination, x[source]))
        return self.head(x.unflatten(0, (graphs, nodes)).mean(dim=1))


def graphs(batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Graphs of 64 nodes and 256 edges, and a class for each."""
    edges = torch.randint(NODES, (batch_size, 2, EDGES))
    return torch.randn(batch_size, NODES, 16), edges, torch.randint(10, (batch_size,))


SEQUENCES = (
    Architecture(
        name="lstm",
        build_model=RecurrentLanguageModel,
        make_batch=texts,
        loss=cross_entropy_of_each,
        source="Zaremba et al. 2014, arXiv 1409.2329",
    ),
    Architecture(
        name="gru",
        build_model=RecurrentTagger,
        make_batch=frames,
        loss=cross_entropy_of_each,
        source="Cho et al. 2014, arXiv 1406.1078",
    ),
    Architecture(
        name="translator",
        build_model=Translator,
        make_batch=translations,
        loss=cross_entropy_of_each,
        optimizer=adafactor,
        source="Vaswani et al. 2017, arXiv 1706.03762",
    ),
    Architecture(
        name="wavenet",
        build_model=WaveNet,
        make_batch=sounds,
        loss=cross_entropy,
        source="van den Oord et al. 2016, arXiv 1609.03499",
    ),
    Architecture(
        name="dlrm",
        build_model=Recommender,
        make_batch=clicks,
        loss=binary_cross_entropy_with_logits,
        source="Naumov et al. 2019, arXiv 1906.00091",
    ),
    Architecture(
        name="graph_network",
        build_model=GraphNetwork,
        make_batch=graphs,
        loss=cross_entropy,
        source="Xu et al. 2018, arXiv 1810.00826",
    ),
)
