"""transformers' own common model tests on our models, beside Llama: `make test-hf`."""
