"""What trained networks do with images: predictions, activation maps, localisation."""
