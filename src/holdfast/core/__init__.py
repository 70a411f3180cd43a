"""What everything is made of: distances, triplets, the one descent and its objectives. It knows no file."""
