"""What every other sub-package may use: errors, settings, files, provenance, memory.

Public face: :class:`~hetacumn.common.errors.HetacumnError` for mistakes of the user;
:func:`~hetacumn.common.files.atomic_path` for every file that is written;
:func:`~hetacumn.common.settings.read_settings` from mappings to dataclasses.
"""
