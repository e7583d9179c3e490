"""Devices, several processes, CUDA graphs, batches and precision."""
