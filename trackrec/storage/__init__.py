"""Tables and manifests on disk: schemas, atomic writes, parts."""
