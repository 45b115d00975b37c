"""The demo: a page and a JSON API to search an index with; `tools/demo.py` starts it."""
