"""Hugging Face Trainers: a step is what the Trainer does with one batch."""

from __future__ import annotations
