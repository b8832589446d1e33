"""What benchmarks count: a rule a file, each a function of what was predicted and what is right."""
