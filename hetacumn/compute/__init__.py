"""Computation: devices, several processes, CUDA graphs, batches and precision.

Main entry points: :func:`~hetacumn.compute.devices.pick_device`, :class:`~hetacumn.compute.launching.DeviceRequest`,
:class:`~hetacumn.compute.processes.ProcessGroup` and :func:`~hetacumn.compute.batches.batch_slices`.
"""
