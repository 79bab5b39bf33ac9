"""Writes the pages, and parts of pages, that follow from the code: `python -m docs.make`."""
