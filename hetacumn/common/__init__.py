"""Foundations of all other sub-packages: errors, settings, files, provenance, memory.

Public face: :class:`~hetacumn.common.errors.HetacumnError` for mistakes of the user;
:func:`~hetacumn.common.files.atomic_path` for every file that is written;
:func:`~hetacumn.common.settings.read_settings` to make dataclasses of mappings.
"""
