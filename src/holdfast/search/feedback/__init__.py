"""A search attacked through its answers alone."""
