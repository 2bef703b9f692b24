"""The bytes side: one GET, received, hashed and written at the same time, with a journal that outlives crashes."""

from restore_fetch.delivery.download import Downloader
from restore_fetch.delivery.http1 import DeliveryClient, Source
from restore_fetch.delivery.journal import JournalFile
from restore_fetch.delivery.part import PartFile
from restore_fetch.delivery.structure import ArchiveInspector, Inspection

__all__ = ["ArchiveInspector", "DeliveryClient", "Downloader", "Inspection", "JournalFile", "PartFile", "Source"]
