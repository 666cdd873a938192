"""Convolutions over recordings of differing lengths, padded to the longest of a batch.

Stands for speech and text with a `collate_fn`: the memory of a batch hangs on the longest sample in it, so an
answer from short samples fails later. One recording in fifty is of the full length.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.utils.data import Dataset

RECORDINGS = 4000
BANDS = 80
SHORTEST_FRAMES = 40
LONGEST_FRAMES = 400
LONGEST_EVERY = 50
WIDTH = 96
LAYERS = 4
WORDS = 35

Recording = tuple[torch.Tensor, int]


class Recordings(Dataset[Recording]):
    """Made-up log-mel spectrograms, the same ones each time, made when asked for."""

    def __len__(self) -> int:
        """How many there are."""
        return RECORDINGS

    def __getitem__(self, index: int) -> Recording:
        """A spectrogram (frames, 80) and the number of the word that is spoken."""
        generator = torch.Generator().manual_seed(index)
        drawn = int(torch.randint(SHORTEST_FRAMES, LONGEST_FRAMES, (), generator=generator))
        frames = LONGEST_FRAMES if index % LONGEST_EVERY == 0 else drawn
        return torch.randn(frames, BANDS, generator=generator), index % WORDS


def collate_fn(recordings: list[Recording]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded spectrograms (n, longest, 80), their lengths in frames, and the words."""
    spectrograms = [spectrogram for spectrogram, _ in recordings]
    lengths = torch.tensor([len(spectrogram) for spectrogram in spectrograms])
    words = torch.tensor([word for _, word in recordings])
    return nn.utils.rnn.pad_sequence(spectrograms, batch_first=True), lengths, words


class KeywordSpotter(nn.Module):
    """Convolutions over time, then the mean over the frames that are no padding."""

    def __init__(self) -> None:
        """Four layers of width 96."""
        super().__init__()
        widths = [BANDS, *[WIDTH] * LAYERS]
        pairs = itertools.pairwise(widths)
        self.layers = nn.Sequential(
            *(layer for i, o in pairs for layer in (nn.Conv1d(i, o, 5, padding=2), nn.BatchNorm1d(o), nn.ReLU()))
        )
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, spectrograms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Spectrograms (n, frames, 80) and lengths (n,) to scores of the words (n, 35)."""
        features = self.layers(spectrograms.transpose(1, 2))
        real = torch.arange(features.shape[2], device=lengths.device) < lengths[:, None]
        return self.head((features * real[:, None]).sum(dim=2) / lengths[:, None])


model = KeywordSpotter()
loss = nn.functional.cross_entropy
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
dataset = Recordings()
