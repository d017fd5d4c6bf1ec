"""Products and attention in C for processors with AVX2 or AVX-512 bf16, compiled on first use."""
