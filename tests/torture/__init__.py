"""Break everything that can break, again and again, and count what was lost.

Each module is one rig: `make torture-NAME` runs it whole and prints its figures beside their
limits, exit 1 when one is missed; the tests run the same code in a short form.
"""
