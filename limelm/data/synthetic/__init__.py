"""Reasoning tasks made from a seed, with the worked steps.

`arithmetic` and `prosqa` offer the same: `generate`, `all_words` and the `TEXT_FORMAT` of their problems.
`draw_task` makes the training and test problems of either by its name.
"""
