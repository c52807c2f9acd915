"""The report of a run: a page, a Markdown file and tables in the terminal."""
