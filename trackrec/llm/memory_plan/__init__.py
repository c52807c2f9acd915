"""What a language-model stage holds in memory."""
