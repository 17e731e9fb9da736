"""Recipes: what one row of a table says, read from YAML with every mistake at its place."""
