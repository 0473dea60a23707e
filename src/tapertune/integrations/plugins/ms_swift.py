"""For ms-swift's ``--external_plugins``, which takes a file; in a folder of its own that is no package, since ms-swift
puts the file's folder in front of where modules are found.
"""

from __future__ import annotations

from tapertune.integrations.ms_swift import register

register()
