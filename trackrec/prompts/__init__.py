"""What the language models read: settings, templates, the book that fills them, grounding of a text's claims."""
