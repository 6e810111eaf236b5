"""The order of writes that survives a crash.

Others use: `catalog.Catalog`, `catalog_reader.CatalogReader`, what `rows` and `errors` define,
`reconcile.Reconciler`, `pending_file.PendingExporter`, `archive`, and `exif.with_exif`, `Facts`.
"""
