"""One file a tool, each called as its own documentation says. What they raise, a caller would have to catch.

They import the tools, most of which have no types and need not be installed, so mypy is told what not to ask of them.
"""
