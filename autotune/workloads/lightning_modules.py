"""LightningModules: a step is what Lightning's Trainer does with one batch."""

from __future__ import annotations
