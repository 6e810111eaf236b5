"""What a server's answer means.

Others use: `outcomes`, `http_target.HttpTarget`, `http_target.first_hop`, `s3_target.S3Target`,
`line.Line`, `claims.Claims`, `pacing`, `progress`.
"""
