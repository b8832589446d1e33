"""What a recipe costs, counted on tensors that have shapes and no numbers, before it runs."""
