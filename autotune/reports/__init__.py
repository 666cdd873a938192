"""What people see: `rows` merges trials, `words` says it in prose, `terminal` in a table, `live` as it happens.

A report turns records into text and prints nothing; only the command line prints. Names and messages come
from foreign code, so whatever is shown passes `words.printable` first and is never read as markup.
"""
