"""The validator (V): its prompts, its scores and its Rec-Tuning."""
