"""What a server's answer means.

Others use: `outcomes`, `http_target`, `s3_target`, `line`, `claims`, `pacing`, `progress`.
"""
