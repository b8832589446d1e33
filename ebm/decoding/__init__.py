"""Decoding: predicting element by element from a code that is only extended."""
