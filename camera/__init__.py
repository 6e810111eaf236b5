"""Which picture is a moment's, and how it is decoded.

Others use: `stream.CameraStream`, `frame`, `latest_frame.LiveView`, `heap`,
`recorder`.
"""
