"""The order of writes that survives a crash.

Others use: `catalog.Catalog`, `catalog_reader.CatalogReader`, `rows`, `errors`,
`reconcile.Reconciler`, `pending_file.PendingExporter`, `archive`, `exif`.
"""
