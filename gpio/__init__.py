"""The contact and the library that reads it.

Others use: `backend` (`GpioBackend`, `GpioError`, `in_words`, `load_rpi_gpio`), `debounce`
(`Debouncer`, `Trigger`), `pins` (`Edge`, `GpioStatus`, `PinStatus`).
"""
