"""holdfast: image retrieval that holds fast under attack."""
