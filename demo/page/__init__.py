"""The gradio page: its blocks, events, HTML, words, style sheet and script."""
