"""The wire: how a camera is asked, and how its packets become pictures.

Others use: `session.RtspSession`, `errors`, `rtp.CodedPicture`, `camera_clock.CameraClock`,
`nal_units`, `recording.Recorder`.
"""
