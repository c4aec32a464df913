"""What an upload can still become: only a pending one takes parts, is completed or cancelled.

pending ──▶ completed
   ├──────▶ cancelled
   └──────▶ expired       an hour after its creation, also before the sweeper has written it down
"""

import time
from enum import StrEnum

from service.database.tables import UploadRow


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def status_of(row: UploadRow) -> UploadStatus:
    if row.status == UploadStatus.PENDING and row.expires_at <= time.time():
        return UploadStatus.EXPIRED
    return UploadStatus(row.status)
