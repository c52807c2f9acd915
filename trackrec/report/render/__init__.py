"""From a document to HTML, Markdown, SVG and the terminal."""
