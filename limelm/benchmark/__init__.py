"""Speed and memory beside a baseline, in one run, interleaved."""
