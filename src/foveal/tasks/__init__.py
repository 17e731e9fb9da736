"""Tasks: each owns its data, its loss, its sums, its predictions and its pictures."""
