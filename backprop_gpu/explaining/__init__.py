"""Backpropagation shown: one number at a time, jump by jump, as a picture and as a page."""
