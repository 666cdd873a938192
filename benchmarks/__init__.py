"""Measures of the tool itself: accuracy and speed of its answers against an oracle, and its start-up time."""
