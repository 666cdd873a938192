"""Shared by all tests; that this file is here lets tests in subfolders import `example_results`."""
