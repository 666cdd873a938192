"""Bundled workloads, to try the tool on: `autotune probe autotune.examples.digits`."""
