"""A run: a trained model, and the folder that training writes."""
