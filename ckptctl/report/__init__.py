"""Pages for people: one self-contained HTML file drawn from the documents of `--json`."""
