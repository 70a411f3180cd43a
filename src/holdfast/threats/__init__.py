"""What a deployed system meets beside the attacks of an evaluation: worn images, false matches, hubs, and one
perturbation for every query."""
