"""Runs over many images: where they come from, how they are decoded beside the model, and what is written."""
