"""HTTP, and who may come in.

Others use: `access` (`Access`, `blueprint`), `api` and `pages` (`blueprint`), `context` (`Actions`,
`CameraUnavailableError`, `LivePicture`, `Site`), `errors` (`add_errors`), `passwords`
(`DEFAULT_PASSWORD`, `Passwords`, `WeakPasswordError`, `require_strong`, `store_password`), `server`
(`WebServer`), `sessions` (`Sessions`), `throttle` (`LoginThrottle`), `words`.
"""
