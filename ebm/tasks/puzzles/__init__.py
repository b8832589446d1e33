"""Tasks with whole answers: puzzles and arithmetic, which a verifier judges."""
