"""Sources in, galleries out: reading images from where they are and loading them."""
