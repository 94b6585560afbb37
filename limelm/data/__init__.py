"""Corpora, token shards, and the data set that training reads."""
