"""Which videos there are, where they lie, and which labels they have."""
