"""Features become bags, checkpoints, results and scores."""
