"""Products and attention in C for processors with AVX-512 bf16, compiled on first use."""
