"""Everything that is not a product: quantizing, batch norm, pooling, steps of optimizers, and blocks of them fused."""
