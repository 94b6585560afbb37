"""The operations below the routers: gradients, compilers, chunks of tokens, Triton kernels, backends."""
