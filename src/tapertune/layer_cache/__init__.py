"""What enters the lowest layer that trains, kept by row: later epochs begin there.

``settings`` alone imports no torch; run files read it.
"""
