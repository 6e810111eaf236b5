"""What is wrong, in words.

Others use: `document.SystemStatus`.
"""
