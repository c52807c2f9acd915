"""Generation and scoring with vLLM in a separate process."""
