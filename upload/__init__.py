"""What a server's answer means, and when to try again.

Others use: `outcomes`, `http_target`, `s3_target.S3Target`, `line.Line`, `claims.Claims`, `pacing`,
`progress`.
"""
