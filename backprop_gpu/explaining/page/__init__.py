"""The page that shows a training step by step: what is on it, and the file it is."""
