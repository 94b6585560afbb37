"""Evaluation of trained models: tasks, scores and their statistics."""
