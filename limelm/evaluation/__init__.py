"""What a trained model can do: tasks, scores and their statistics."""
