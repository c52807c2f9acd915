"""Renders a report as HTML, Markdown and SVG, and tables in the terminal."""
