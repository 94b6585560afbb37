"""What reports show, as data: the sections on each topic, in the order of the page."""
