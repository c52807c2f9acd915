"""Memory estimates of language-model stages."""
