"""Tasks of text: documents, brackets, questions, and what turns them into tokens."""
