"""What the page can do to one image, and what each model of a scene makes of it."""
