"""The only room that touches file systems: local folders, buckets, the hub and the web, all as a `Storage`.

It knows nothing of runs, tables or weights.
"""

from cascade_batch.storage.objects import ObjectChanged, ObjectExists, ObjectInfo, ObjectInfos, ObjectMissing
from cascade_batch.storage.storage import Storage

__all__ = ["ObjectChanged", "ObjectExists", "ObjectInfo", "ObjectInfos", "ObjectMissing", "Storage"]
