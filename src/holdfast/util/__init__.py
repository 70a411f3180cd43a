"""What every room uses: errors, files, progress, optional packages, processes."""
