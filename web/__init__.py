"""HTTP, and who may come in.

Others use: `access`, `api`, `pages`, `words`, `errors.add_errors`, `context`, `server.WebServer`,
`passwords`, `sessions.Sessions`, `throttle.LoginThrottle`.
"""
