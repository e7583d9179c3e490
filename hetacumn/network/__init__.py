"""The encoder, the decoder, the two tasks of HetACUMN, and their training."""
