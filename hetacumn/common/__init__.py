"""Helpers of all other sub-packages: errors, settings, files, provenance, memory.

Main entry points: :class:`~hetacumn.common.errors.HetacumnError` is raised for mistakes of the user;
:func:`~hetacumn.common.files.atomic_path` writes every output file;
:func:`~hetacumn.common.settings.read_settings` builds dataclasses from nested mappings.
"""
